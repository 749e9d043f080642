"""Zeros around an image (ZeroPad2d) as a part of the convolutions that read it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn import functional

from snn_rl.core.graph import Node, consumers, rewire
from snn_rl.errors import ConversionError

PAD: Any = "pad"
"""Operation of a node between tracing and folding; option: padding (left, right, top, bottom)."""


def fold_padding(nodes: list[Node], layers: dict[str, nn.Module]) -> list[Node]:
    """`nodes` without paddings, which `layers` (changed in place) take over.

    A convolution pads both sides alike; where they differ, its kernel grows by zeros.

    Raises:
        ConversionError: something else than a convolution reads a padded image.
    """
    while pad := next((node for node in nodes if node.op == PAD), None):
        for reader in consumers(nodes, pad.name):
            if reader.op != "conv" or isinstance(reader.options["padding"], str):
                raise ConversionError(
                    f"'{pad.name}' (zero padding before {reader.name!r}) must directly precede a "
                    "Conv2d with a number as its padding"
                )
            padded = _padded(reader, layers, pad.options["padding"])
            nodes = [padded if node is reader else node for node in nodes]
        nodes = [rewire(node, pad.name, pad.inputs[0]) for node in nodes if node.name != pad.name]
    return nodes


def _padded(node: Node, layers: dict[str, nn.Module], padding: list[int]) -> Node:
    """The convolution `node` with `padding` added to its own."""
    layer: Any = layers[node.name]
    left, right, top, bottom = padding
    (height, width), (rows, columns) = (_pair(node.options[n]) for n in ("padding", "dilation"))
    kernel = []
    for before, after, dilation in ((left, right, columns), (top, bottom, rows)):
        if min(before, after) < 0 or (after - before) % dilation:
            raise ConversionError(f"'{node.name}' reads an image whose padding cannot be folded")
        taps = (after - before) // dilation
        kernel += [max(taps, 0), max(-taps, 0)]
    layer.weight = nn.Parameter(functional.pad(layer.weight.data, kernel))
    options = {
        "padding": [height + max(top, bottom), width + max(left, right)],
        "kernel_size": list(layer.weight.shape[2:]),
    }
    return replace(node, options=node.options | options)


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value, value]
