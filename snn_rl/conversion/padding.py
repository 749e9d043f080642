"""Zeros around an image (ZeroPad2d) as a part of the convolutions that read it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, cast

from torch import nn
from torch.nn import functional

from snn_rl.core.execute import Weighted, weighted
from snn_rl.core.graph import Node, consumers, rewire
from snn_rl.core.operations import Conv2d, Operation
from snn_rl.errors import ConversionError


@dataclass(frozen=True)
class Pad(Operation):
    """Zeros at the left, right, top and bottom of an image; only between tracing and folding."""

    left: int
    right: int
    top: int
    bottom: int
    kind: ClassVar[str] = "pad"


def fold_padding(nodes: list[Node], layers: dict[str, nn.Module]) -> list[Node]:
    """`nodes` without paddings, which `layers` (changed in place) take over.

    A convolution pads both sides alike; where they differ, its kernel grows by zeros.

    Raises:
        ConversionError: something else than a convolution reads a padded image.
    """
    while pad := next((node for node in nodes if isinstance(node.operation, Pad)), None):
        for reader in consumers(nodes, pad.name):
            if not isinstance(reader.operation, Conv2d):
                raise ConversionError(
                    f"'{pad.name}' (zero padding before {reader.name!r}) must directly precede a "
                    "Conv2d"
                )
            padded = _padded(reader, weighted(layers[reader.name]), cast(Pad, pad.operation))
            nodes = [padded if node is reader else node for node in nodes]
        nodes = [rewire(node, pad.name, pad.inputs[0]) for node in nodes if node.name != pad.name]
    return nodes


def _padded(node: Node, layer: Weighted, pad: Pad) -> Node:
    """The convolution `node` with `pad` added to its own padding."""
    conv = cast(Conv2d, node.operation)
    (height, width), (rows, columns) = conv.padding, conv.dilation
    kernel = []
    for before, after, dilation in (
        (pad.left, pad.right, columns),
        (pad.top, pad.bottom, rows),
    ):
        if min(before, after) < 0 or (after - before) % dilation:
            raise ConversionError(f"'{node.name}' reads an image whose padding cannot be folded")
        taps = (after - before) // dilation
        kernel += [max(taps, 0), max(-taps, 0)]
    layer.weight = nn.Parameter(functional.pad(layer.weight.data, kernel))
    size = (int(layer.weight.shape[2]), int(layer.weight.shape[3]))
    around = (height + max(pad.top, pad.bottom), width + max(pad.left, pad.right))
    return replace(node, operation=replace(conv, padding=around, kernel_size=size))
