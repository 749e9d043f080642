"""Replay of segments: each frame is stored once; segments are cut out when they are sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn_rl.network import State


@dataclass(frozen=True)
class Step:
    """One step of all environments, [num_envs] each.

    `last` marks final frames, whose step only resets the environment: there is no transition.
    """

    frame: NDArray[np.generic]
    start: NDArray[np.bool_]
    last: NDArray[np.bool_]
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    teacher_q: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Segment:
    """Consecutive frames of a batch, time first: frames [F, B, ...], all others [F, B].

    `start` marks the first frame of an episode, `valid` frames that a transition follows.
    `teacher_q` [F, B, actions] are the teacher's labels; `state` is the network's state before
    the first frame where it is known exactly.
    """

    frames: NDArray[Any]
    start: NDArray[Any]
    valid: NDArray[Any]
    action: NDArray[Any]
    reward: NDArray[Any]
    terminated: NDArray[Any]
    truncated: NDArray[Any]
    teacher_q: NDArray[np.float32] | None = None
    state: State | None = None


class SegmentReplay:
    """Ring of `rows` steps of `num_envs` environments.

    Arrays are [num_envs, rows, ...]: one environment's frames lie side by side, so that a
    segment is a contiguous read.
    """

    def __init__(
        self,
        num_envs: int,
        rows: int,
        frame_shape: tuple[int, ...],
        *,
        pixels: bool,
        teacher_actions: int = 0,
    ) -> None:
        shape = (num_envs, rows)
        self.frames = np.zeros((*shape, *frame_shape), np.uint8 if pixels else np.float32)
        self.start = np.zeros(shape, np.bool_)
        self.last = np.zeros(shape, np.bool_)
        self.action = np.zeros(shape, np.int16)
        self.reward = np.zeros(shape, np.float32)
        self.terminated = np.zeros(shape, np.bool_)
        self.truncated = np.zeros(shape, np.bool_)
        self.teacher_q = np.zeros((*shape, teacher_actions), np.float32)
        self.rows = rows
        self.written = 0

    def __len__(self) -> int:
        """Rows filled."""
        return min(self.written, self.rows)

    def append(self, step: Step) -> None:
        """Store one step of all environments over the oldest one."""
        row = self.written % self.rows
        self.frames[:, row] = step.frame
        self.start[:, row] = step.start
        self.last[:, row] = step.last
        self.action[:, row] = step.action
        self.reward[:, row] = step.reward
        self.terminated[:, row] = step.terminated
        self.truncated[:, row] = step.truncated
        if step.teacher_q is not None:
            self.teacher_q[:, row] = step.teacher_q
        self.written += 1

    def sample(self, generator: np.random.Generator, batch: int, length: int) -> Segment:
        """Uniformly drawn segments of `length` frames. Raises ValueError if none fits yet."""
        self._check(length)
        offsets = len(self) - length + 1
        env = generator.integers(len(self.frames), size=batch)
        first = generator.integers(offsets, size=batch) + (self.written - len(self))
        return self._cut(env, first, length)

    def newest(
        self, length: int, state: State | None, envs: NDArray[np.int64] | None = None
    ) -> Segment:
        """The last `length` rows of all or some environments.

        Args:
            state: of all environments before these rows, where it is known.
            envs: indices of the environments to take.

        Raises:
            ValueError: there are fewer rows.
        """
        self._check(length)
        if envs is None:
            envs = np.arange(len(self.frames))
        elif state is not None:
            state = tuple(tensor[torch.from_numpy(envs)] for tensor in state)
        return self._cut(envs, np.full(len(envs), self.written - length), length, state)

    def _check(self, length: int) -> None:
        if len(self) < length:
            raise ValueError(f"the replay holds {len(self)} rows; a segment needs {length}")

    def _cut(
        self,
        env: NDArray[np.int64],
        first: NDArray[np.int64],
        length: int,
        state: State | None = None,
    ) -> Segment:
        at = (env[None], (first[None] + np.arange(length)[:, None]) % self.rows)
        return Segment(
            frames=self.frames[at],
            start=self.start[at],
            valid=~self.last[at],
            action=self.action[at].astype(np.int64),
            reward=self.reward[at],
            terminated=self.terminated[at],
            truncated=self.truncated[at],
            teacher_q=self.teacher_q[at] if self.teacher_q.shape[2] else None,
            state=state,
        )
