"""Layers of neurons: what a network asks of any, and the leaky integrate-and-fire ones."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from snn_rl.core.operations import Granularity
from snn_rl.core.scan import lif_scan, lif_step
from snn_rl.core.state import LIFState
from snn_rl.core.surrogates import Surrogate

THRESHOLD_FLOOR = 1e-3
"""Smallest threshold: the surrogate's 1/v factor explodes below it."""

LayerState = tuple[Tensor, ...]
"""A kind of neuron's own named tuple, each [batch, *neurons]."""


class SpikingLayer(nn.Module, ABC):
    """One layer of `shape` neurons that spike, with a trainable threshold and leak.

    Each parameter is one number per layer, per channel (first axis of `shape`) or per neuron,
    stored in a shape that broadcasts to `shape`. Membranes start at `start` thresholds. A kind of
    neuron gives its dynamics, the three abstract methods.

    Attributes:
        variables: names of what each neuron keeps from timestep to timestep.
    """

    variables: ClassVar[tuple[str, ...]]

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

    def resting(self, batch: int) -> Tensor:
        """Membranes [batch, *shape] at the start of an episode."""
        membrane = self.threshold.new_zeros(batch, *self.shape)
        return membrane + self.start * self.threshold.detach() if self.start else membrane

    @abstractmethod
    def initial_state(self, batch: int) -> LayerState:
        """State at the start of an episode."""

    @abstractmethod
    def forward(
        self,
        current: Tensor,
        state: LayerState,
        resets: Tensor | None,
        timesteps: int,
        surrogate: Surrogate,
    ) -> tuple[Tensor, LayerState]:
        """Run over frames and timesteps, the state carried throughout.

        Args:
            current: [frames, 1 or timesteps, batch, *neurons]; 1 means the same input at every
                timestep of a frame.
            state: before the first frame.
            resets: bool [frames, batch]; True begins anew in that row before the frame.
            timesteps: spiking steps per frame, >= 1.
            surrogate: gradient of the spike.

        Returns:
            spikes [frames, timesteps, batch, *neurons] and the state after the last frame.
        """

    @abstractmethod
    def pre_reset(
        self, current: Tensor, state: LayerState, resets: Tensor | None, timesteps: int
    ) -> Tensor:
        """All membranes just before the reset, [frames, timesteps, batch, *neurons], without
        gradients; arguments as of `forward`."""

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

    @torch.no_grad()
    def stretch(self, factor: float) -> None:
        """Take a timestep to last `factor` times as long: what remains of it is raised to that."""
        self.leak.pow_(factor)


class LIF(SpikingLayer):
    """Leaky integrate-and-fire neurons: see `snn_rl.core.scan.lif_step`."""

    variables = LIFState._fields

    def initial_state(self, batch: int) -> LIFState[Tensor]:
        """Membranes where they start."""
        return LIFState(self.resting(batch))

    def forward(
        self,
        current: Tensor,
        state: LayerState,
        resets: Tensor | None,
        timesteps: int,
        surrogate: Surrogate,
    ) -> tuple[Tensor, LIFState[Tensor]]:
        """See `SpikingLayer.forward`."""
        spikes, membrane = lif_scan(
            current,
            state[0],
            self.threshold,
            self.leak,
            resets,
            timesteps=timesteps,
            surrogate=surrogate,
            start=self.start,
        )
        return spikes, LIFState(membrane)

    def pre_reset(
        self, current: Tensor, state: LayerState, resets: Tensor | None, timesteps: int
    ) -> Tensor:
        """See `SpikingLayer.pre_reset`."""
        membrane = state[0]
        result = current.new_empty(current.shape[0], timesteps, *current.shape[2:])
        for f in range(current.shape[0]):
            if resets is not None:
                membrane = begun_anew(membrane, resets[f], self.start * self.threshold)
            for t in range(timesteps):
                now = current[f, min(t, current.shape[1] - 1)]
                _, membrane, result[f, t] = lif_step(now, membrane, self.threshold, self.leak)
        return result


def begun_anew(values: Tensor, rows: Tensor, start: Tensor) -> Tensor:
    """`values` [batch, ...] with `start` in some rows (bool [batch])."""
    return torch.where(rows.view(-1, *[1] * (values.dim() - 1)), start.to(values.dtype), values)


def parameter_shape(shape: tuple[int, ...], granularity: Granularity) -> tuple[int, ...]:
    """Shape of a parameter that broadcasts to `shape` at the given granularity."""
    if granularity == "neuron":
        return shape
    if granularity == "channel":
        return (shape[0],) + (1,) * (len(shape) - 1)
    if granularity == "layer":
        return (1,) * len(shape)
    raise ValueError(f"granularity is 'layer', 'channel' or 'neuron', not {granularity!r}")
