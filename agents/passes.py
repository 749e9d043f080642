"""How networks run over segments: Q-values, and what their TD targets bootstrap from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.losses import Returns, n_step_returns
from snn_rl.agents.replay import Segment
from snn_rl.network import Network, SpikeHook, State
from snn_rl.stacking import stack_at

_Pair = tuple[Tensor, Tensor]


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

    def run(
        self,
        segment: Segment,
        rates: dict[str, Tensor],
        *,
        bootstrap: bool,
        values: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Q-values [f, B, actions] of the frames that count, and their TD targets [f, B].

        Args:
            rates: filled with spikes per neuron and frame, by layer.
            bootstrap: give targets.
            values: from `target_values`, where they are there already.
        """
        frames, start = self._tensor(segment.frames), self._tensor(segment.start)
        state: State = segment.state or ()
        if not state and self.network.spiking:
            state = self.network.initial_state(frames.shape[1])
        now = self.counted(segment)
        returns = self._returns(segment) if bootstrap else None
        final = self._final(returns, frames) if returns else None
        if self.network.spiking:
            q, after = self._in_sequence(frames, start, state, now, final, rates)
        else:
            q, after = self._one_by_one(frames, start, state, now, final, values)
        if returns is None or after is None:
            return q, None
        chooser, value = after
        best = value.gather(2, chooser.argmax(2, keepdim=True)).squeeze(2)
        return q, self._tensor(returns.total) + self._tensor(returns.discount) * best

    def target_values(self, segments: Sequence[Segment]) -> list[Tensor | None]:
        """The target network's Q-values of the frames that each segment's targets bootstrap from,
        all in one batch; None each where there are no targets, or membranes to run through."""
        if self.target is None or self.network.spiking:
            return [None] * len(segments)
        stacks = []
        for segment in segments:
            frames, start = self._tensor(segment.frames), self._tensor(segment.start)
            frames, start, first = self._with_older(
                frames, start, segment.state or (), self.counted(segment).start
            )
            final = self._final(self._returns(segment), frames)
            stacks.append(self._stacked(frames, start, first + final[0]))
        with torch.no_grad():
            values, _ = self._run(self.target.on_stacks(), torch.cat(stacks, 1), (), None)
        return list(torch.split(values, [stack.shape[1] for stack in stacks], 1))

    def _returns(self, segment: Segment) -> Returns:
        first = self.counted(segment).start
        return n_step_returns(
            segment.reward[first:],
            segment.terminated[first:],
            segment.truncated[first:],
            gamma=self.config.gamma,
            n=self.ahead,
        )

    def _final(self, returns: Returns, frames: Tensor) -> _Pair:
        """Indices, from the first frame that counts, of the frames to bootstrap from."""
        return self._tensor(returns.index), torch.arange(frames.shape[1], device=frames.device)

    def _in_sequence(
        self,
        frames: Tensor,
        start: Tensor,
        state: State,
        now: slice,
        final: _Pair | None,
        rates: dict[str, Tensor],
    ) -> tuple[Tensor, _Pair | None]:
        """Q-values of the frames `now`, and online and target ones of `final`, which counts from
        the first of them."""

        def observe(layer: str, spikes: Tensor) -> None:
            rates[layer] = spikes.sum(1).mean()

        before = state[0]
        if now.start:
            with torch.no_grad():
                _, state = self._run(self.network, frames[: now.start], state, start[: now.start])
        q, state = self._run(self.network, frames[now], state, start[now], observe)
        if self.target is None or final is None:
            return q, None
        with torch.no_grad():
            after, _ = self._run(self.network, frames[now.stop :], state, start[now.stop :])
            # The target runs over the same frames with membranes of its own.
            own = self.target.initial_state(frames.shape[1])
            if self.target.stack > 1:
                own = (before, *own[1:])
            value, _ = self._run(self.target, frames, own, start)
        values = value[now.start :][final]
        return q, (torch.cat([q, after])[final] if self.config.double else values, values)

    def _one_by_one(
        self,
        frames: Tensor,
        start: Tensor,
        state: State,
        now: slice,
        final: _Pair | None,
        values: Tensor | None,
    ) -> tuple[Tensor, _Pair | None]:
        """As `_in_sequence`, without membranes: each frame counts with those stacked to it."""
        length = now.stop - now.start
        frames, start, first = self._with_older(frames, start, state, now.start)
        times = torch.arange(first, first + length, device=frames.device)
        stacks = self._stacked(frames, start, times[:, None].expand(-1, frames.shape[1]))
        q, _ = self._run(self.network.on_stacks(), stacks, (), None)
        if self.target is None or final is None:
            return q, None
        stacked_after = partial(self._stacked, frames, start, first + final[0])
        with torch.no_grad():
            if values is None:
                values, _ = self._run(self.target.on_stacks(), stacked_after(), (), None)
            chooser = values
            if self.config.double:
                chooser, _ = self._run(self.network.on_stacks(), stacked_after(), (), None)
        return q, (chooser, values)

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
