"""How networks run over segments: Q-values, and what their TD targets bootstrap from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.dqn.losses import Returns, n_step_returns
from snn_rl.agents.dqn.replay import Segment
from snn_rl.core.network import Network, SpikeHook, State
from snn_rl.core.stacking import stack_at

_Pair = tuple[Tensor, Tensor]


@dataclass
class Prepared:
    """A segment on the device, and what its targets bootstrap from.

    Attributes:
        now: the frames that count.
        returns: n-step returns; None without a target network.
        final: indices, from the first frame that counts, of the frames to bootstrap from.
        after, values: those frames with their stacks, and the target network's values of them; for
            networks without membranes alone.
    """

    frames: Tensor
    start: Tensor
    state: State
    now: slice
    returns: Returns | None
    final: _Pair | None
    after: Tensor | None = None
    values: Tensor | None = None


@dataclass(frozen=True)
class Passes:
    """The passes of an online and a target network over segments [F, B].

    A segment is burn-in frames (unless its state is known), frames that count, and `ahead` frames
    to bootstrap from.

    Attributes:
        target: None where nothing is bootstrapped.
        timesteps, carry_membrane: how both networks are run.
    """

    network: Network
    target: Network | None
    config: LearnerConfig
    timesteps: int
    carry_membrane: bool

    @property
    def burn_in(self) -> int:
        """Frames before a segment that build up the membranes and fill the stack of frames."""
        return max(self.config.burn_in if self.network.spiking else 0, self.network.stack - 1)

    @property
    def ahead(self) -> int:
        """Frames needed behind a segment to bootstrap from."""
        return self.config.n_step if self.target is not None else 0

    def counted(self, segment: Segment) -> slice:
        """The frames of a segment that count."""
        burn_in = 0 if segment.state is not None else self.burn_in
        return slice(burn_in, len(segment.frames) - self.ahead)

    def prepare(self, segments: Sequence[Segment]) -> list[Prepared]:
        """The segments on the device. Without membranes to run through, the target network's
        values of all of them come from one batch."""
        prepared = [self._place(segment) for segment in segments]
        stacks = [one.after for one in prepared if one.after is not None]
        if self.target is not None and stacks:
            with torch.no_grad():
                values, _ = self._run(self.target.on_stacks(), torch.cat(stacks, 1), (), None)
            widths = [stack.shape[1] for stack in stacks]
            for one, part in zip(prepared, torch.split(values, widths, 1), strict=True):
                one.values = part
        return prepared

    def run(self, data: Prepared, rates: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Q-values [f, B, actions] of the frames that count, and their TD targets [f, B], None
        without a target network.

        Args:
            rates: filled with spikes per neuron and frame, by layer.
        """
        q, after = self._in_sequence(data, rates) if self.network.spiking else self._apart(data)
        if data.returns is None or after is None:
            return q, None
        chooser, value = after
        best = value.gather(2, chooser.argmax(2, keepdim=True)).squeeze(2)
        total, discount = self._tensor(data.returns.total), self._tensor(data.returns.discount)
        return q, total + discount * best

    def _place(self, segment: Segment) -> Prepared:
        frames, start = self._tensor(segment.frames), self._tensor(segment.start)
        now, state = self.counted(segment), segment.state or ()
        returns, final = None, None
        if self.target is not None:
            returns = self._returns(segment, now.start)
            envs = torch.arange(frames.shape[1], device=frames.device)
            final = (self._tensor(returns.index), envs)
        if self.network.spiking:
            state = state or self.network.initial_state(frames.shape[1])
            return Prepared(frames, start, state, now, returns, final)
        frames, start, first = self._with_older(frames, start, state, now.start)
        after = self._stacked(frames, start, first + final[0]) if final else None
        now = slice(first, first + now.stop - now.start)
        return Prepared(frames, start, (), now, returns, final, after)

    def _returns(self, segment: Segment, first: int) -> Returns:
        return n_step_returns(
            segment.reward[first:],
            segment.terminated[first:],
            segment.truncated[first:],
            gamma=self.config.gamma,
            n=self.ahead,
        )

    def _in_sequence(self, data: Prepared, rates: dict[str, Tensor]) -> tuple[Tensor, _Pair | None]:
        """Q-values of the frames that count, and online and target ones of those after them."""

        def observe(layer: str, spikes: Tensor) -> None:
            rates[layer] = spikes.sum(1).mean()

        frames, start, state, now = data.frames, data.start, data.state, data.now
        began = state
        if now.start:
            with torch.no_grad():
                _, state = self._run(self.network, frames[: now.start], state, start[: now.start])
        q, state = self._run(self.network, frames[now], state, start[now], observe)
        if self.target is None:
            return q, None
        with torch.no_grad():
            # The target runs over the same frames from the same start with its own weights.
            value, _ = self._run(self.target, frames, began, start)
            values = value[now.start :][data.final]
            if not self.config.double:
                return q, (values, values)
            after, _ = self._run(self.network, frames[now.stop :], state, start[now.stop :])
        return q, (torch.cat([q, after])[data.final], values)

    def _apart(self, data: Prepared) -> tuple[Tensor, _Pair | None]:
        """As `_in_sequence`, without membranes: each frame counts with those stacked to it."""
        times = torch.arange(data.now.start, data.now.stop, device=data.frames.device)
        times = times[:, None].expand(-1, data.frames.shape[1])
        stacks = self._stacked(data.frames, data.start, times)
        q, _ = self._run(self.network.on_stacks(), stacks, (), None)
        if data.after is None or data.values is None:
            return q, None
        if not self.config.double:
            return q, (data.values, data.values)
        with torch.no_grad():
            chooser, _ = self._run(self.network.on_stacks(), data.after, (), None)
        return q, (chooser, data.values)

    def _with_older(
        self, frames: Tensor, start: Tensor, state: State, first: int
    ) -> tuple[Tensor, Tensor, int]:
        """Frames and starts with those that are stacked to the first one, where they are in the
        state; and the new index of frame `first`."""
        if self.network.stack == 1 or first >= self.network.stack - 1:
            return frames, start, first
        older = state[0].transpose(0, 1)
        start = torch.cat([start.new_zeros(older.shape[:2]), start])
        return torch.cat([older, frames]), start, first + len(older)

    def _stacked(self, frames: Tensor, start: Tensor, at: Tensor) -> Tensor:
        return stack_at(frames, start, at, self.network.stack, self.network.offset)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return on_device(array, self.network.device)

    def _run(
        self,
        network: Network,
        frames: Tensor,
        state: State,
        start: Tensor | None,
        on_spikes: SpikeHook | None = None,
    ) -> tuple[Tensor, State]:
        amp = self.config.amp
        # Spikes, membranes and thresholds are float32 in any case: see `lif_scan`.
        with torch.autocast(self.network.device.type, torch.bfloat16, enabled=amp):
            q, state = network(
                frames,
                state,
                start,
                timesteps=self.timesteps,
                carry_membrane=self.carry_membrane,
                on_spikes=on_spikes,
            )
        return q.float() if amp else q, state


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor; the copy to a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # only from pinned memory does a copy run beside computation
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
