"""What updates learn from: Q-values of a segment's frames, and the TD targets they are drawn to.

A segment is burn-in frames, frames that count, and frames that follow them, where n-step returns
bootstrap. Networks that carry membranes run through all of it in sequence (`SequenceTargets`);
others are asked for the frames that count and for those bootstrapped from alone (`FrameTargets`).

Sources: DQN (Mnih et al. 2015), double DQN (van Hasselt et al. 2016), stored state and burn-in of
recurrent networks (R2D2, Kapturowski et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.dqn.execution import Execution, on_device
from snn_rl.agents.dqn.losses import n_step_returns
from snn_rl.agents.dqn.replay import Segment
from snn_rl.agents.dqn.spans import bootstrap_frames
from snn_rl.core.network import Network, State
from snn_rl.core.stacking import stack_at
from snn_rl.core.state import mapped


def vanilla_dqn(values: Tensor) -> Tensor:
    """Worth of frames [f, B] by the target network's `values` [f, B, actions]: its best one."""
    return values.amax(2)


def double_dqn(values: Tensor, online: Tensor) -> Tensor:
    """Worth of frames [f, B]: the target network's value of the action that the online network
    prefers. Both [f, B, actions]."""
    return values.gather(2, online.argmax(2, keepdim=True)).squeeze(2)


@dataclass(frozen=True)
class Lesson:
    """What one update learns from: f frames that count of B environments, on the device.

    Attributes:
        q: the online network's Q-values [f, B, actions], with their gradient.
        targets: TD targets [f, B]; None without a target network.
        action: taken [f, B].
        valid: bool [f, B], frames that a transition follows.
        teacher_q: the teacher's Q-values [f, B, actions], where there is a teacher.
        rates: spikes per neuron and frame by layer, with their gradient.
    """

    q: Tensor
    targets: Tensor | None
    action: Tensor
    valid: Tensor
    teacher_q: Tensor | None
    rates: dict[str, Tensor] = field(default_factory=dict)


class Targets(Protocol):
    """Turns segments into lessons."""

    def lessons(self, segments: Sequence[Segment]) -> Iterator[Lesson]:
        """One lesson per segment, in order. Each is made when it is asked for, with the weights
        that the online network has then; those of the target network must stay until the last."""


def make_targets(
    network: Network, target: Network | None, config: LearnerConfig, run: Execution
) -> Targets:
    """What suits the network.

    Args:
        network: the online one.
        target: None where nothing is bootstrapped.
    """
    kind = SequenceTargets if network.sequential else FrameTargets
    return kind(network, target, config, run)


@dataclass(frozen=True)
class SequenceTargets:
    """Of networks with membranes: both run over the same frames, each with its own weights, from
    the same start, which is the state before the segment's first frame."""

    network: Network
    target: Network | None
    config: LearnerConfig
    run: Execution

    def lessons(self, segments: Sequence[Segment]) -> Iterator[Lesson]:
        """As `Targets.lessons`."""
        for segment in segments:
            yield self._lesson(segment)

    def _lesson(self, segment: Segment) -> Lesson:
        run, network, device = self.run, self.network, self.network.device
        frames, start = on_device(segment.frames, device), on_device(segment.start, device)
        now = counted(segment, self.config)
        began = state = state_before(segment, network)
        if now.start:
            with torch.no_grad():
                _, state = run(network, frames[: now.start], state, start[: now.start])
        q, rates, state = run.unroll(network, frames[now], state, start[now])
        if self.target is None:
            return make_lesson(segment, now, q, None, rates)
        bootstrap = Bootstrap.of(segment, now.start, self.config, device)
        with torch.no_grad():
            values, _ = run(self.target, frames, began, start)
            values = values[now.start :][bootstrap.frames]
            if self.config.double:
                after, _ = run(network, frames[now.stop :], state, start[now.stop :])
                worth = double_dqn(values, torch.cat([q, after])[bootstrap.frames])
            else:
                worth = vanilla_dqn(values)
        return make_lesson(segment, now, q, bootstrap.targets(worth), rates)


@dataclass(frozen=True)
class FrameTargets:
    """Of networks without membranes: each frame counts with those that are stacked to it. The
    target network values the frames of all segments in one batch."""

    network: Network
    target: Network | None
    config: LearnerConfig
    run: Execution

    def lessons(self, segments: Sequence[Segment]) -> Iterator[Lesson]:
        """As `Targets.lessons`."""
        pasts = [_Past.of(segment, self.network, self.config) for segment in segments]
        ends = [self._end(*pair) for pair in zip(segments, pasts, strict=True)]
        values = self._values([after for _, after in ends if after is not None])
        for segment, past, (bootstrap, after) in zip(segments, pasts, ends, strict=True):
            now = counted(segment, self.config)
            q, _ = self.run(self.network.on_stacks(), past.stacked(now), None, None)
            targets = None
            if bootstrap is not None and after is not None:
                targets = bootstrap.targets(self._worth(after, next(values)))
            yield make_lesson(segment, now, q, targets, {})

    def _end(self, segment: Segment, past: _Past) -> tuple[Bootstrap | None, Tensor | None]:
        """Where the segment's returns bootstrap, and those frames with the ones stacked to them."""
        if self.target is None:
            return None, None
        first = counted(segment, self.config).start
        bootstrap = Bootstrap.of(segment, first, self.config, self.network.device)
        return bootstrap, past.stacked_at(first + bootstrap.frames[0])

    def _values(self, stacks: Sequence[Tensor]) -> Iterator[Tensor]:
        """The target network's values of each tensor of stacks [f, B, ...]."""
        if self.target is None or not stacks:
            return iter(())
        with torch.no_grad():
            values, _ = self.run(self.target.on_stacks(), torch.cat(tuple(stacks), 1), None, None)
        return iter(torch.split(values, [stack.shape[1] for stack in stacks], 1))

    @torch.no_grad()
    def _worth(self, after: Tensor, values: Tensor) -> Tensor:
        if not self.config.double:
            return vanilla_dqn(values)
        online, _ = self.run(self.network.on_stacks(), after, None, None)
        return double_dqn(values, online)


@dataclass(frozen=True)
class _Past:
    """A segment's frames [F, B, ...] on the device, behind `older` ones that stack to its first."""

    network: Network
    frames: Tensor
    start: Tensor
    older: int

    @classmethod
    def of(cls, segment: Segment, network: Network, config: LearnerConfig) -> _Past:
        frames = on_device(segment.frames, network.device)
        start = on_device(segment.start, network.device)
        if counted(segment, config).start >= network.stack - 1:
            return cls(network, frames, start, 0)
        history = state_before(segment, network).history
        assert history is not None
        older = history.transpose(0, 1)
        start = torch.cat([start.new_zeros(older.shape[:2]), start])
        return cls(network, torch.cat([older, frames]), start, len(older))

    def stacked(self, now: slice) -> Tensor:
        """Some of the segment's frames [f, B, ...], each with the ones before it."""
        times = torch.arange(now.start, now.stop, device=self.frames.device)
        return self.stacked_at(times[:, None].expand(-1, self.frames.shape[1]))

    def stacked_at(self, times: Tensor) -> Tensor:
        """As `stacked`, of the frames `times` [f, B] of the segment."""
        stack, offset = self.network.stack, self.network.offset
        return stack_at(self.frames, self.start, self.older + times, stack, offset)


@dataclass(frozen=True)
class Bootstrap:
    """n-step returns of f frames, [f, B] each, on the device.

    Attributes:
        frames: indices, from the first frame that counts, and environments of the frames whose
            worth completes the returns.
    """

    total: Tensor
    discount: Tensor
    frames: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls, segment: Segment, first: int, config: LearnerConfig, device: torch.device
    ) -> Bootstrap:
        """Of the frames of a segment from `first` on."""
        returns = n_step_returns(
            segment.reward[first:],
            segment.terminated[first:],
            segment.truncated[first:],
            gamma=config.gamma,
            n=config.n_step,
        )
        envs = torch.arange(segment.reward.shape[1], device=device)
        return cls(
            on_device(returns.total, device),
            on_device(returns.discount, device),
            (on_device(returns.index, device), envs),
        )

    def targets(self, worth: Tensor) -> Tensor:
        """TD targets [f, B] from the worth [f, B] of the frames at the returns' ends."""
        return self.total + self.discount * worth


def counted(segment: Segment, config: LearnerConfig) -> slice:
    """The frames of a segment that count."""
    return slice(segment.burn_in, len(segment.frames) - bootstrap_frames(config))


def state_before(segment: Segment, network: Network) -> State:
    """The state before a segment's first frame, on the device; that of an episode's start where
    none is known."""
    if segment.state is None:
        return network.initial_state(segment.frames.shape[1])
    state: State = mapped(lambda tensor: tensor.to(network.device), segment.state)
    return state


def make_lesson(
    segment: Segment, now: slice, q: Tensor, targets: Tensor | None, rates: dict[str, Tensor]
) -> Lesson:
    """The lesson that the frames `now` of a segment are."""
    teacher_q = segment.teacher_q
    return Lesson(
        q,
        targets,
        on_device(segment.action[now], q.device),
        on_device(segment.valid[now], q.device),
        None if teacher_q is None else on_device(teacher_q[now], q.device),
        rates,
    )
