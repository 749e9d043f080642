"""The weight grid: int16 * 2^-k per layer, so that sums are exact in float32 in every order.

k is the largest exponent for which sum|w| * (largest input) + |b| of every neuron stays below
2^24 grid units (float32's exact integers) and every entry fits in int16. Then all engines,
batch sizes and devices give the same bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snn_rl.core.graph import ranges
from snn_rl.core.network import Network
from snn_rl.core.operations import Linear, Scale
from snn_rl.errors import SnnRlError

EXACT = 2.0**24
INT16 = 2**15 - 1
SMALLEST = 1e-12
"""A layer whose entries are all smaller is rounded as if one had this size."""


@torch.no_grad()
def snap(network: Network, timesteps: int) -> dict[str, int]:
    """Round all weights and biases of `network` to their grids, in place; returns k per layer.

    Args:
        timesteps: spiking steps per frame; the last layer sums its input over them.

    Raises:
        SnnRlError: weights that are not finite.
    """
    exponents = {}
    entering = ranges(network.nodes)
    for node in network.nodes:
        if node.operation.weighted or isinstance(node.operation, Scale):
            layer = network.weighted(node.name)
            weight, bias = layer.weight.data, layer.bias
            largest, unit = entering[node.inputs[0]]
            # The read-out sums its inputs and its bias over the timesteps.
            is_read_out = node is network.nodes[-1] and isinstance(node.operation, Linear)
            sums = timesteps if is_read_out else 1
            k = exponent(weight, bias, largest, unit, sums)
            weight.copy_(torch.round(weight * 2.0**k) / 2.0**k)
            if bias is not None:
                bias.copy_(torch.round(bias * 2.0**k) / 2.0**k)
            exponents[node.name] = k
    return exponents


def exponent(
    weight: Tensor, bias: Tensor | None, largest: float, unit: float, sums: int = 1
) -> int:
    """Largest k at which no neuron's sum leaves float32's exact integers.

    Args:
        weight, bias: of one layer, outputs on the first axis.
        largest: largest input, infinite for real-valued input (then only int16 is a bound).
        unit: the inputs are multiples of this power of two.
        sums: how many outputs are summed, bias included.

    Raises:
        SnnRlError: values that are not finite.
    """
    w = weight.double().flatten(1) if weight.dim() > 1 else weight.double().unsqueeze(1)
    b = w.new_zeros(len(w)) if bias is None else bias.double()
    if not bool(w.isfinite().all() and b.isfinite().all()):
        raise SnnRlError("the network's weights are not finite: training has diverged")
    entry = max(float(w.abs().max()), float(b.abs().max()), SMALLEST)
    k = math.floor(math.log2(INT16 / entry)) + 1  # + 1: rounding can bring the entry back
    while not _exact(
        torch.round(w * 2.0**k).abs(), torch.round(b * 2.0**k).abs(), largest, unit, sums
    ):
        k -= 1
    return k


def _exact(w: Tensor, b: Tensor, largest: float, unit: float, sums: int) -> bool:
    """Do entries (in grid units) fit in int16 and sums in float32's exact integers?"""
    if max(float(w.max()), float(b.max())) > INT16:
        return False
    return math.isinf(largest) or float((w.sum(1) * largest + b).max()) * sums < EXACT * unit
