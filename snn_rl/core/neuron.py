"""The leaky integrate-and-fire neuron: one pure step, and its parameters.

Source: Chowdhury, Rathi and Roy, "Towards Ultra Low Latency Spiking Neural Networks for Vision
and Sequential Tasks Using Temporal Pruning" (ECCV 2022), Eqs. 1-3, with the reset in the same
timestep as the spike (read literally, Eq. 2 cannot spike at T = 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from snn_rl.core.operations import Granularity

THRESHOLD_FLOOR = 1e-3
"""Smallest threshold: the surrogate's 1/v factor explodes below it."""


def lif_step(
    current: Tensor, membrane: Tensor, threshold: Tensor, leak: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One timestep of a layer of LIF neurons, without gradients.

        u <- leak * u + current;   o = 1 if u > threshold else 0;   u <- u - threshold * o

    Args:
        current: weighted input [batch, *neurons].
        membrane: membrane potential after the previous timestep, same shape.
        threshold, leak: broadcastable to [*neurons]; threshold > 0, 0 <= leak <= 1.

    Returns:
        spikes (0 or 1), the membrane after the reset, and the membrane before it.
    """
    pre_reset = membrane * leak + current
    spikes = (pre_reset > threshold).to(pre_reset.dtype)
    return spikes, pre_reset - threshold * spikes, pre_reset


class LIF(nn.Module):
    """Owns the trainable threshold and leak of one layer of `shape` neurons.

    Each parameter is one number per layer, per channel (first axis of `shape`) or per neuron,
    stored in a shape that broadcasts to `shape`. Membranes start at `start` thresholds.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        threshold: Granularity = "layer",
        leak: Granularity = "layer",
        start: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape, self.start = tuple(shape), start
        self.threshold = nn.Parameter(torch.ones(parameter_shape(self.shape, threshold)))
        self.leak = nn.Parameter(torch.ones(parameter_shape(self.shape, leak)))

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring threshold >= THRESHOLD_FLOOR and 0 <= leak <= 1 back after an optimiser step."""
        self.threshold.clamp_(min=THRESHOLD_FLOOR)
        self.leak.clamp_(0.0, 1.0)

    @torch.no_grad()
    def spread_leak(self, low: float, high: float) -> None:
        """Spread the leaks evenly over [low, high]: fast and slow membranes side by side.

        With one leak per layer, all of it gets the middle of the range.
        """
        count = self.leak.numel()
        values = torch.linspace(low, high, count) if count > 1 else torch.tensor([(low + high) / 2])
        self.leak.copy_(values.reshape(self.leak.shape))


def parameter_shape(shape: tuple[int, ...], granularity: Granularity) -> tuple[int, ...]:
    """Shape of a parameter that broadcasts to `shape` at the given granularity."""
    if granularity == "neuron":
        return shape
    if granularity == "channel":
        return (shape[0],) + (1,) * (len(shape) - 1)
    if granularity == "layer":
        return (1,) * len(shape)
    raise ValueError(f"granularity is 'layer', 'channel' or 'neuron', not {granularity!r}")
