"""Leaky integrate-and-fire neurons that tire: every spike raises the threshold for a while.

Source: the adaptive LIF neuron of Bellec et al., "Long short-term memory and learning-to-learn in
networks of spiking neurons" (NeurIPS 2018). The raise is counted as a share of the threshold, and
the reset subtracts the threshold alone, so that a spike stands for the same as of other neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snn_rl.core.neuron import LayerState, SpikingLayer, begun_anew, parameter_shape
from snn_rl.core.operations import Granularity
from snn_rl.core.state import Values
from snn_rl.core.surrogates import Surrogate


class AdaptiveState(NamedTuple, Generic[Values]):
    """Of a layer of adaptive neurons.

    Attributes:
        membrane: float32 [batch, *neurons], after the reset.
        adaptation: likewise, by what share the threshold is raised; at least 0.
    """

    membrane: Values
    adaptation: Values


class AdaptiveLIF(SpikingLayer):
    """Per timestep, with membrane u and adaptation a:

        u <- leak * u + current;   o = 1 if u > threshold + threshold * a else 0;
        u <- u - threshold * o;    a <- decay * a + strength * o

    The surrogate takes z = u / threshold - a. In the reset o is detached; in a it is not, which is
    how a spike is held to account for the silence after it. With strength 0 these are LIF neurons.

    Attributes:
        strength: by how much a spike raises the threshold, as a share of it, at least 0.
        decay: what remains of a raise after a timestep, 0 to 1.
    """

    variables = AdaptiveState._fields

    def __init__(
        self,
        shape: tuple[int, ...],
        threshold: Granularity = "layer",
        leak: Granularity = "layer",
        start: float = 0.0,
    ) -> None:
        super().__init__(shape, threshold, leak, start)
        self.strength = nn.Parameter(torch.zeros(parameter_shape(self.shape, leak)))
        self.decay = nn.Parameter(torch.ones(parameter_shape(self.shape, leak)))

    @torch.no_grad()
    def begin(self, strength: float, decay: float) -> None:
        """Set both parameters of all neurons."""
        self.strength.fill_(strength)
        self.decay.fill_(decay)

    def initial_state(self, batch: int) -> AdaptiveState[Tensor]:
        """Membranes where they start, thresholds not raised."""
        membrane = self.resting(batch)
        return AdaptiveState(membrane, torch.zeros_like(membrane))

    def forward(
        self,
        current: Tensor,
        state: LayerState,
        resets: Tensor | None,
        timesteps: int,
        surrogate: Surrogate,
    ) -> tuple[Tensor, AdaptiveState[Tensor]]:
        """See `SpikingLayer.forward`."""
        spikes = []
        for fired, _, after in self._steps(current, state, resets, timesteps, surrogate):
            spikes.append(fired)
            state = after
        return _by_frame(spikes, timesteps), AdaptiveState(*state)

    @torch.no_grad()
    def pre_reset(
        self, current: Tensor, state: LayerState, resets: Tensor | None, timesteps: int
    ) -> Tensor:
        """See `SpikingLayer.pre_reset`."""
        steps = self._steps(current, state, resets, timesteps, Surrogate())
        return _by_frame([charged for _, charged, _ in steps], timesteps)

    def _steps(
        self,
        current: Tensor,
        state: LayerState,
        resets: Tensor | None,
        timesteps: int,
        surrogate: Surrogate,
    ) -> Iterator[tuple[Tensor, Tensor, LayerState]]:
        """Of every timestep its spikes, the membranes before the reset, and the state after it."""
        # As of LIF neurons, float32 under mixed precision.
        dtype = torch.float64 if current.dtype == torch.float64 else torch.float32
        current = current.to(dtype)
        membrane, adaptation = (values.to(dtype) for values in state)
        for f in range(len(current)):
            if resets is not None:
                membrane = begun_anew(membrane, resets[f], self.start * self.threshold)
                adaptation = begun_anew(adaptation, resets[f], adaptation.new_zeros(()))
            for t in range(timesteps):
                charged = membrane * self.leak + current[f, min(t, current.shape[1] - 1)]
                threshold = self.threshold.expand_as(charged)
                fired = _fire(charged, threshold, adaptation, surrogate)
                membrane = charged - threshold * fired.detach()
                adaptation = adaptation * self.decay + self.strength * fired
                yield fired, charged, (membrane, adaptation)

    @torch.no_grad()
    def constrain(self) -> None:
        """As of all neurons, and strength >= 0, 0 <= decay <= 1."""
        super().constrain()
        self.strength.clamp_(min=0.0)
        self.decay.clamp_(0.0, 1.0)

    @torch.no_grad()
    def stretch(self, factor: float) -> None:
        """As of all neurons; raised thresholds likewise."""
        super().stretch(factor)
        self.decay.pow_(factor)


def _by_frame(steps: list[Tensor], timesteps: int) -> Tensor:
    """[frames, timesteps, batch, *neurons] of what single steps gave."""
    stacked = torch.stack(steps)
    return stacked.view(-1, timesteps, *stacked.shape[1:])


def _fire(charged: Tensor, threshold: Tensor, adaptation: Tensor, surrogate: Surrogate) -> Tensor:
    """Spikes, with the surrogate's gradient; all of one shape."""
    apply: Any = _Fire.apply
    spikes: Tensor = apply(charged, threshold, adaptation, surrogate)
    return spikes


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, charged: Tensor, threshold: Tensor, adaptation: Tensor, surrogate: Surrogate
    ) -> Tensor:
        ctx.save_for_backward(charged, threshold, adaptation)
        ctx.surrogate = surrogate
        return (charged > threshold + threshold * adaptation).to(charged.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        charged, threshold, adaptation = ctx.saved_tensors
        share = charged / threshold
        through = grad * ctx.surrogate(share - adaptation)
        return through / threshold, -through * share / threshold, -through, None
