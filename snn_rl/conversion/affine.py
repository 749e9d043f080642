"""Constant affine maps, folded into the layers beside them: y = scale * x + shift, elementwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from snn_rl.conversion.padding import Pad
from snn_rl.core.execute import Weighted, weighted
from snn_rl.core.graph import Node, consumers, rewire
from snn_rl.core.operations import Conv2d, Flatten, Linear, Operation, Shape
from snn_rl.errors import ConversionError


@dataclass(frozen=True, eq=False)
class Affine(Operation):
    """scale * x + shift, float64 in the shape of one sample; only between tracing and folding."""

    scale: Tensor
    shift: Tensor
    kind: ClassVar[str] = "affine"

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
    nodes: list[Node], layers: dict[str, nn.Module], shapes: dict[str, Shape]
) -> list[Node]:
    """`nodes` without affine maps, which are folded into `layers` (changed in place).

    A map goes into the layer before it, where it alone reads that, else into all layers after it.

    Args:
        shapes: of one sample at the output of every node.

    Raises:
        ConversionError: names a map that has no such layer beside it.
    """
    while node := next((node for node in nodes if isinstance(node.operation, Affine)), None):
        affine = cast(Affine, node.operation)
        (source,) = (other for other in nodes if other.name == node.inputs[0])
        alone = len(consumers(nodes, source.name)) == 1
        if source.operation.weighted and alone and _per_channel(affine, source.operation):
            _fold_into_source(weighted(layers[source.name]), affine)
            nodes = [_biased(other) if other is source else other for other in nodes]
        else:
            for reader in consumers(nodes, node.name):
                nodes = _push(nodes, layers, shapes, node, reader, affine)
        nodes = [rewire(n, node.name, source.name) for n in nodes if n.name != node.name]
    return nodes


def _push(
    nodes: list[Node],
    layers: dict[str, nn.Module],
    shapes: dict[str, Shape],
    origin: Node,
    reader: Node,
    affine: Affine,
) -> list[Node]:
    """Fold a map into `reader`, or into what reads that."""
    operation = reader.operation
    if isinstance(operation, Affine):
        both = replace(reader, operation=operation.after(affine))
        return [both if node is reader else node for node in nodes]
    transparent = operation.keeps_values or isinstance(operation, Pad)
    if transparent and consumers(nodes, reader.name):
        passed = _through(origin, reader, affine, shapes[reader.name])
        for following in consumers(nodes, reader.name):
            nodes = _push(nodes, layers, shapes, origin, following, passed)
        return nodes
    if not operation.weighted:
        raise _refused(origin, reader, "an affine map")
    shifts = bool(affine.shift.any())
    if isinstance(operation, Conv2d):
        if not _per_channel(affine, operation):
            raise _refused(origin, reader, "a map that differs from pixel to pixel")
        if shifts and operation.padding != (0, 0):
            raise _refused(origin, reader, "a shift before padding")
    _fold_into_reader(weighted(layers[reader.name]), affine, shifts)
    return [_biased(node) if shifts and node is reader else node for node in nodes]


def _biased(node: Node) -> Node:
    return replace(node, operation=replace(cast(Linear | Conv2d, node.operation), bias=True))


def _through(origin: Node, reader: Node, affine: Affine, shape: Shape) -> Affine:
    """A map behind a node that only drops, reshapes or pads, giving `shape`."""
    if not isinstance(reader.operation, Flatten) and bool(affine.shift.any()):
        raise _refused(origin, reader, "a shift")
    if not isinstance(reader.operation, Pad):
        return Affine(affine.scale.reshape(shape), affine.shift.reshape(shape))
    if not _per_channel(affine, reader.operation):
        raise _refused(origin, reader, "a map that differs from pixel to pixel")
    corner = affine.scale[:, :1, :1].expand(shape)
    return Affine(corner, torch.zeros_like(corner))


def _fold_into_source(layer: Weighted, affine: Affine) -> None:
    """Into the layer before."""
    scale, shift = (
        t.reshape(len(t), -1)[:, 0].to(layer.weight.device) for t in (affine.scale, affine.shift)
    )
    weight = layer.weight.data
    bias = shift if layer.bias is None else layer.bias.data.double() * scale + shift
    scaled = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    layer.weight.data.copy_(scaled)
    layer.bias = nn.Parameter(bias.to(weight.dtype))


def _fold_into_reader(layer: Weighted, affine: Affine, shifts: bool) -> None:
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


def _per_channel(affine: Affine, operation: Operation) -> bool:
    """Whether a map is the same at all pixels of a channel; vectors have a channel per feature."""
    return isinstance(operation, Linear) or all(
        bool((t == t.reshape(len(t), -1)[:, :1].view(-1, 1, 1)).all())
        for t in (affine.scale, affine.shift)
    )


def _refused(node: Node, reader: Node, what: str) -> ConversionError:
    return ConversionError(
        f"'{node.name}' ({what} before {reader.name!r}, {reader.operation.kind}) has no layer that "
        "can take it: move it beside a Linear or a Conv2d without padding"
    )
