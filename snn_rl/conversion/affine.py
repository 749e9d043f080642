"""Constant affine maps, folded into the layers beside them: y = scale * x + shift, elementwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from snn_rl.conversion.padding import PAD
from snn_rl.core.graph import WEIGHTED, Node, consumers, rewire
from snn_rl.errors import ConversionError

AFFINE: Any = "affine"
"""Operation of a node between tracing and folding."""


@dataclass(frozen=True)
class Affine:
    """scale * x + shift; float64 in the shape of one sample."""

    scale: Tensor
    shift: Tensor

    def after(self, first: Affine) -> Affine:
        """This map on the result of `first`."""
        return Affine(self.scale * first.scale, self.scale * first.shift + self.shift)


def probe(function: Callable[[Tensor], Any], shape: tuple[int, ...]) -> Affine | None:
    """The affine map that `function` computes on batches [batch, *shape]; None if it is none."""
    zero = torch.zeros(1, *shape, dtype=torch.float64, device="cpu")
    found = [function(x) for x in (zero, zero + 1)]
    if any(not isinstance(y, Tensor) or y.shape != zero.shape for y in found):
        return None
    affine = Affine((found[1] - found[0])[0].double(), found[0][0].double())
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(8, *shape, generator=generator, dtype=torch.float64, device="cpu") - 2
    again = function(x)
    fits = again.shape == x.shape and torch.allclose(again, affine.scale * x + affine.shift)
    return affine if fits else None


def fold_affine(
    nodes: list[Node],
    layers: dict[str, nn.Module],
    affines: dict[str, Affine],
    shapes: dict[str, tuple[int, ...]],
) -> list[Node]:
    """`nodes` without those that `affines` names, folded into `layers` (changed in place).

    A map goes into the layer before it, where it alone reads that, else into all layers after it.

    Args:
        shapes: of one sample at the output of every node.

    Raises:
        ConversionError: names a map that has no such layer beside it.
    """
    for name in [node.name for node in nodes if node.name in affines]:
        (node,) = (other for other in nodes if other.name == name)
        (source,) = (other for other in nodes if other.name == node.inputs[0])
        affine = affines[node.name]
        alone = len(consumers(nodes, source.name)) == 1
        if source.op in WEIGHTED and alone and _per_channel(affine, source.op):
            _fold_back(layers[source.name], affine)
            nodes = [
                replace(n, options=n.options | {"bias": True}) if n is source else n for n in nodes
            ]
        else:
            for reader in consumers(nodes, node.name):
                nodes = _push(nodes, layers, affines, shapes, node, reader, affine)
        nodes = [rewire(n, node.name, source.name) for n in nodes if n.name != node.name]
    return nodes


def _push(
    nodes: list[Node],
    layers: dict[str, nn.Module],
    affines: dict[str, Affine],
    shapes: dict[str, tuple[int, ...]],
    origin: Node,
    reader: Node,
    affine: Affine,
) -> list[Node]:
    """Fold a map into `reader`, or into what reads that."""
    if reader.name in affines:
        affines[reader.name] = affines[reader.name].after(affine)
        return nodes
    if reader.op in ("flatten", "dropout", PAD) and consumers(nodes, reader.name):
        passed = _through(origin, reader, affine, shapes[reader.name])
        for following in consumers(nodes, reader.name):
            nodes = _push(nodes, layers, affines, shapes, origin, following, passed)
        return nodes
    if reader.op not in WEIGHTED:
        raise _refused(origin, reader, "an affine map")
    shifts = bool(affine.shift.any())
    if reader.op == "conv":
        if not _per_channel(affine, "conv"):
            raise _refused(origin, reader, "a map that differs from pixel to pixel")
        if shifts and reader.options["padding"] not in (0, [0, 0], "valid"):
            raise _refused(origin, reader, "a shift before padding")
    _fold_ahead(layers[reader.name], affine, shifts)
    if not shifts:
        return nodes
    return [
        replace(n, options=n.options | {"bias": True}) if n.name == reader.name else n
        for n in nodes
    ]


def _through(origin: Node, reader: Node, affine: Affine, shape: tuple[int, ...]) -> Affine:
    """A map behind a node that only drops, reshapes or pads, giving `shape`."""
    if reader.op != "flatten" and bool(affine.shift.any()):
        raise _refused(origin, reader, "a shift")
    if reader.op != PAD:
        return Affine(affine.scale.reshape(shape), affine.shift.reshape(shape))
    if not _per_channel(affine, "conv"):
        raise _refused(origin, reader, "a map that differs from pixel to pixel")
    corner = affine.scale[:, :1, :1].expand(shape)
    return Affine(corner, torch.zeros_like(corner))


def _fold_back(layer: Any, affine: Affine) -> None:
    """Into the layer before."""
    scale, shift = (
        t.reshape(len(t), -1)[:, 0].to(layer.weight.device) for t in (affine.scale, affine.shift)
    )
    weight = layer.weight.data
    bias = shift if layer.bias is None else layer.bias.data.double() * scale + shift
    scaled = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    layer.weight.data.copy_(scaled)
    layer.bias = nn.Parameter(bias.to(weight.dtype))


def _fold_ahead(layer: Any, affine: Affine, shifts: bool) -> None:
    """Into a layer after."""
    weight = layer.weight.data
    uniform = bool((affine.scale == affine.scale.flatten()[0]).all())
    if uniform and not shifts:
        weight.mul_(float(affine.scale.flatten()[0]))
        return
    groups, outputs = getattr(layer, "groups", 1), len(weight)
    scale, shift = (
        (t.reshape(len(t), -1)[:, 0] if weight.dim() == 4 else t.flatten())
        .view(groups, -1)
        .repeat_interleave(outputs // groups, 0)
        .view(outputs, -1, *[1] * (weight.dim() - 2))
        .to(weight.device)
        for t in (affine.scale, affine.shift)
    )  # [outputs, inputs per group, ...]
    if shifts:
        bias = (weight.double() * shift).flatten(1).sum(1)
        bias = bias if layer.bias is None else bias + layer.bias.data.double()
        layer.bias = nn.Parameter(bias.to(weight.dtype))
    weight.copy_(weight.double() * scale)


def _per_channel(affine: Affine, op: str) -> bool:
    """Whether a map is the same at all pixels of a channel; vectors have a channel per feature."""
    return op == "linear" or all(
        bool((t == t.reshape(len(t), -1)[:, :1].view(-1, 1, 1)).all())
        for t in (affine.scale, affine.shift)
    )


def _refused(node: Node, reader: Node, what: str) -> ConversionError:
    return ConversionError(
        f"'{node.name}' ({what} before {reader.name!r}, {reader.op}) has no layer that can take "
        "it: move it beside a Linear or a Conv2d without padding"
    )
