"""Which weights a frame really needs: those of non-zero inputs, and those of changed pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from snn_rl.core import operations
from snn_rl.core.graph import Node
from snn_rl.core.network import Network
from snn_rl.core.stacking import stack_frames


@dataclass(frozen=True)
class Traffic:
    """Means per frame over recorded play.

    Attributes:
        weights: different weights of each weighted layer that its non-zero inputs touch, summed
            over the timesteps; of the layer that reads pixels, those that changed pixels touch.
        changed: pixels that differ from the frame before; None where the network sees no pixels.
        changed_macs: multiply-adds that they cause; all of that layer's where it sees no pixels.
    """

    weights: Mapping[str, float]
    changed: float | None
    changed_macs: float


@torch.no_grad()
def measure_traffic(
    network: Network, frames: Tensor, *, timesteps: int = 1, carry_membrane: bool = False
) -> Traffic:
    """Traffic of a network that sees one game: its frames [frames, 1, *input_shape] in order.

    The first frame, which the one before it does not precede, counts in no mean of pixels.
    """
    nodes = {node.name: node for node in network.nodes}
    readers = [node for node in network.nodes if node.operation.weighted]
    seen = network.nodes[0].name
    touched: dict[str, float] = {}

    def note(name: str, value: Tensor) -> None:
        for node in readers:
            if node.inputs[0] == name:
                per_step = touches(node, value.flatten(0, 2) != 0)[0]
                touched[node.name] = per_step / len(value)

    network(frames, None, None, timesteps=timesteps, carry_membrane=carry_membrane, on_value=note)
    first = [node for node in readers if _source(nodes, node) == seen]
    if not network.pixels:
        touched |= {node.name: float(node.operation.weights()) for node in first}
        dense = sum(node.operation.macs(network.shapes[node.inputs[0]]) for node in first)
        return Traffic(touched, None, float(dense))
    pictures = frames
    if network.stack > 1:
        history = network.initial_state(1).history
        assert history is not None
        pictures, _ = stack_frames(frames, history, None, network.offset)
    changes = pictures[1:, 0] != pictures[:-1, 0]
    count, products = max(1, len(changes)), 0.0
    for node in first:
        weights, macs = touches(node, changes)
        touched[node.name] = weights / count
        products += macs / count
    return Traffic(touched, int(changes.sum()) / count, products)


def mean_traffic(found: list[Traffic]) -> Traffic:
    """Of games of equal length."""
    count = len(found)
    changed = [one.changed for one in found if one.changed is not None]
    return Traffic(
        {name: sum(one.weights[name] for one in found) / count for name in found[0].weights},
        sum(changed) / count if changed else None,
        sum(one.changed_macs for one in found) / count,
    )


def touches(node: Node, active: Tensor) -> tuple[float, float]:
    """Different weights that active inputs bool [samples, ...] touch, and how many products they
    take part in; both summed over the samples."""
    operation = node.operation
    if isinstance(operation, operations.Conv2d):
        kernel = functional.unfold(
            active.float(),
            operation.kernel_size,
            dilation=operation.dilation,
            padding=operation.padding,
            stride=operation.stride,
        )
        outputs = operation.out_channels // operation.groups
        return float((kernel.sum(2) > 0).sum()) * outputs, float(kernel.sum()) * outputs
    assert isinstance(operation, operations.Linear)
    count = float(active.sum()) * operation.out_features
    return count, count


def _source(nodes: Mapping[str, Node], node: Node) -> str:
    """The node that a layer reads, behind those that only pass values on."""
    name = node.inputs[0]
    while nodes[name].operation.passes_spikes and nodes[name].inputs:
        name = nodes[name].inputs[0]
    return name
