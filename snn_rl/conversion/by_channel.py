"""Thresholds per channel: each channel balanced on its own, amplitudes folded forward by channel.

Sources: Kim et al. 2020 (Spiking-YOLO), channel-wise normalisation, here for thresholds; Rueckauer
et al. 2017, thresholds from the ANN's activations.
"""

from __future__ import annotations

from torch import Tensor

from snn_rl.core.graph import consumers
from snn_rl.core.network import Network
from snn_rl.core.operations import Conv2d, Scale


def percentile_of(values: Tensor, percentile: float) -> float:
    """Percentile of the positive values; 0 where there are none."""
    positive = values[values > 0]
    if not positive.numel():
        return 0.0
    rank = max(1, round(positive.numel() * percentile / 100))
    return float(positive.kthvalue(rank).values)


def channel_factors(current: Tensor, threshold: Tensor, percentile: float) -> Tensor:
    """What to multiply a layer's thresholds by: the percentile, per channel, of what a frame adds
    to a membrane in a timestep on average. A channel without positive values gets that of all.

    Not of the membranes: their peaks, where spikes arrive together, would make a threshold several
    times the largest value that it has to stand for.

    Args:
        current: weighted input [frames, 1 or timesteps, batch, channels, ...].

    Returns:
        [channels, 1, ...].
    """
    values = current.mean(1, keepdim=True) / threshold
    whole = percentile_of(values, percentile)
    channels = values.movedim(3, 0).flatten(1)
    found = [percentile_of(channel, percentile) or whole for channel in channels]
    return values.new_tensor(found).view(channel_shape(tuple(values.shape[3:])))


def fold_forward(network: Network, name: str, factors: Tensor) -> None:
    """Multiply the weights that read the output of `name` by factors that broadcast to it."""
    factors = factors.to(network.device).expand(network.shapes[name])
    for node in consumers(network.nodes, name):
        if node.operation.counts_spikes:
            passed = factors
            if factors.dim() != len(network.shapes[node.name]):
                passed = factors.flatten()
            elif factors.shape != network.shapes[node.name]:  # pooling
                passed = factors[:, :1, :1]
            fold_forward(network, node.name, passed)
            continue
        weight = network.weighted(node.name).weight.data
        if isinstance(node.operation, Scale):
            weight.mul_(_as_factors(factors, weight))
        elif isinstance(node.operation, Conv2d):
            inputs = factors[:, 0, 0].view(node.operation.groups, 1, -1, 1, 1)
            grouped = weight.view(node.operation.groups, -1, *weight.shape[1:])
            grouped.mul_(inputs)
        else:
            weight.mul_(factors)


def _as_factors(factors: Tensor, weight: Tensor) -> Tensor:
    """Factors of all values as a scale's weight has them."""
    if weight.numel() == 1:
        return factors.flatten()[:1].view(weight.shape)
    return factors.flatten(1)[:, 0].view(weight.shape) if factors.dim() > 1 else factors


def channel_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One number per channel, broadcast over the rest."""
    return (shape[0], *[1] * (len(shape) - 1))
