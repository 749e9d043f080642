"""Replay of segments: each frame is stored once; segments are cut out when they are sampled.

Source of stored states: R2D2 (Kapturowski et al. 2019).
"""

from __future__ import annotations

import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from snn_rl.core.network import State
from snn_rl.errors import CheckpointError

SPARE = 1 << 20
"""Values of each environment's frames that are kept for a resume at least."""


@dataclass(frozen=True)
class Step:
    """One step of all environments, [num_envs] each.

    `last` marks final frames, whose step only resets the environment: there is no transition.
    `state` is the network's before the frame, where it is to be stored.
    """

    frame: NDArray[np.generic]
    start: NDArray[np.bool_]
    last: NDArray[np.bool_]
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    teacher_q: NDArray[np.float32] | None = None
    state: State | None = None


@dataclass(frozen=True)
class Segment:
    """Consecutive frames of a batch, time first: frames [F, B, ...], all others [F, B].

    `start` marks the first frame of an episode, `valid` frames that a transition follows.
    `teacher_q` [F, B, actions] are the teacher's labels; `state` is the network's state before
    the first frame where it is known; the first `burn_in` frames only build up its membranes, or
    fill the stack of frames.
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
    burn_in: int = 0


class SegmentReplay:
    """Ring of steps of `num_envs` environments.

    Arrays are [num_envs, rows + spare, ...]: one environment's frames lie side by side, so that
    a segment is a contiguous read.

    Args:
        rows: segments are drawn from this many of the newest steps.
        spare: older steps that stay intact. A run that is resumed from `written` as it was up
            to `spare` steps ago, and takes the same steps again, draws the same segments.
        files: keeps the arrays as files in this folder, which outlive the process; what they
            already hold is kept.
        state: of all environments, as the stored ones look. They keep float32: whatever is
            rounded would spike at other times than in play.
        every: rows from one stored state to the next; drawn segments start there. 0 for none.

    Raises:
        OSError: the disk is full, or a file is a link.
    """

    def __init__(
        self,
        num_envs: int,
        rows: int,
        frame_shape: tuple[int, ...],
        *,
        pixels: bool,
        teacher_actions: int = 0,
        spare: int = 0,
        files: Path | None = None,
        state: State = (),
        every: int = 0,
    ) -> None:
        self.rows, self.ring, self.files = rows, rows + spare, files
        self.every, self.slots = every, -(-self.ring // every) if every else 0
        self.written = 0
        shape = (num_envs, self.ring)
        pixel = np.uint8 if pixels else np.float32
        self.frames = self._array("frames", (*shape, *frame_shape), pixel)
        self.start = self._array("start", shape, np.bool_)
        self.last = self._array("last", shape, np.bool_)
        self.action = self._array("action", shape, np.int16)
        self.reward = self._array("reward", shape, np.float32)
        self.terminated = self._array("terminated", shape, np.bool_)
        self.truncated = self._array("truncated", shape, np.bool_)
        self.teacher_q = self._array("teacher_q", (*shape, teacher_actions), np.float32)
        self._rows = (
            *(self.frames, self.start, self.last, self.action, self.reward),
            *(self.terminated, self.truncated, self.teacher_q),
        )
        # Those of the ring's rows outlive these rows.
        self.states = tuple(
            self._array(
                f"state{number}", (num_envs, self.slots, *tensor.shape[1:]), tensor.numpy().dtype
            )
            for number, tensor in enumerate(_on_cpu(state) if every else ())
        )
        self.sums = self._array("sums", (1, self.ring), np.uint32) if files else None

    def _array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.files is None or size == 0:
            return np.zeros(shape, dtype)
        self.files.mkdir(parents=True, exist_ok=True)
        path = self.files / name
        # What a link leads to is another's, and must not be written.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.open(path, flags, 0o666)
        try:
            # A full disk must show here, not as a crash when a page is written.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, size)
            else:
                os.truncate(file, size)
        finally:
            os.close(file)
        # A plain array over the mapping: np.memmap's own indexing is slow.
        return np.asarray(np.memmap(path, dtype, "r+", shape=shape))

    def __len__(self) -> int:
        """Rows that segments are drawn from."""
        return min(self.written, self.rows)

    def keeps(self, written: int, steps: int) -> bool:
        """Whether all that could be drawn at `written` outlives the next `steps` steps."""
        return self.written + steps - self.ring <= max(0, written - self.rows)

    def flush(self) -> None:
        """Have the files' contents written to the disk itself."""
        for path in self.files.iterdir() if self.files else ():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def append(self, step: Step) -> None:
        """Store one step of all environments over the oldest one.

        Raises:
            ValueError: it comes without the state that belongs into this row, or with another one.
        """
        expected = bool(self.every) and self.written % self.every == 0
        if (step.state is not None) != expected:
            raise ValueError(f"row {self.written} needs {'a' if expected else 'no'} state")
        row = self.written % self.ring
        self.frames[:, row] = step.frame
        self.start[:, row] = step.start
        self.last[:, row] = step.last
        self.action[:, row] = step.action
        self.reward[:, row] = step.reward
        self.terminated[:, row] = step.terminated
        self.truncated[:, row] = step.truncated
        if step.teacher_q is not None:
            self.teacher_q[:, row] = step.teacher_q
        for array, tensor in zip(self.states, _on_cpu(step.state or ()), strict=False):
            array[:, self.written // self.every % self.slots] = tensor.numpy()
        if self.sums is not None:
            self.sums[0, row] = self._sum(self.written)
        self.written += 1

    def check(self) -> None:
        """Compare the rows that segments are drawn from with the sums written beside them.

        Raises:
            CheckpointError: files are missing, truncated or damaged.
        """
        for row in range(self.written - len(self), self.written):
            if self.sums is not None and self.sums[0, row % self.ring] != self._sum(row):
                assert self.files is not None
                raise CheckpointError(
                    f"{self.files} is damaged: remove {self.files.parent} to train its stage from "
                    "the start"
                )

    def cut(self) -> None:
        """End all episodes at the newest row: nothing that follows it belongs to it."""
        ends = [row for row in (self.written - 2, self.written - 1) if row >= 0]
        for row in ends:
            self.truncated[:, row % self.ring] |= row < self.written - 1
            self.last[:, row % self.ring] |= row == self.written - 1
            if self.sums is not None:
                self.sums[0, row % self.ring] = self._sum(row)

    def _sum(self, row: int) -> int:
        """CRC-32 of a row, counted from the very first one, and of the state that starts there."""
        at = row % self.ring
        parts = [array[:, at] for array in self._rows]
        if self.every and row % self.every == 0:
            parts += [array[:, row // self.every % self.slots] for array in self.states]
        found = 0
        for part in parts:
            found = zlib.crc32(np.ascontiguousarray(part).data, found)
        return found

    def sample(
        self, generator: np.random.Generator, batch: int, length: int, burn_in: int = 0
    ) -> Segment:
        """Uniformly drawn segments of `length` frames, of which the first `burn_in` do not count.

        Raises:
            ValueError: no segment of this length is there yet.
        """
        firsts = self.firsts(length)
        if not firsts:
            self._refuse(length)
        env = generator.integers(len(self.frames), size=batch)
        first = firsts.step * generator.integers(len(firsts), size=batch) + firsts.start
        state = None
        if self.every:
            slot = first // self.every % self.slots
            state = tuple(torch.from_numpy(array[env, slot]) for array in self.states)
        return self._cut(env, first, length, state, burn_in)

    def firsts(self, length: int) -> range:
        """Rows, counted from the very first one, at which drawn segments of `length` start."""
        every, oldest = self.every or 1, self.written - len(self)
        return range(-(-oldest // every) * every, self.written - length + 1, every)

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
        if len(self) < length:
            self._refuse(length)
        if envs is None:
            envs = np.arange(len(self.frames))
        elif state is not None:
            state = tuple(tensor[torch.from_numpy(envs)] for tensor in state)
        return self._cut(envs, np.full(len(envs), self.written - length), length, state)

    def _refuse(self, length: int) -> NoReturn:
        raise ValueError(f"the replay holds {len(self)} rows; a segment needs {length}")

    def _cut(
        self,
        env: NDArray[np.int64],
        first: NDArray[np.int64],
        length: int,
        state: State | None = None,
        burn_in: int = 0,
    ) -> Segment:
        at = (env[None], (first[None] + np.arange(length)[:, None]) % self.ring)
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
            burn_in=burn_in,
        )


def spare_rows(rows: int, frame_shape: tuple[int, ...], *, rollout: int, total: int) -> int:
    """Older steps to keep beside `rows`, so that saves need not be frequent: a quarter, or more of
    small frames, but no more than a stage of `total` steps takes."""
    spare = max(rows // 4, rollout, SPARE // math.prod(frame_shape))
    return min(spare, max(0, total + rollout - rows))


def _on_cpu(state: State) -> State:
    return tuple(tensor.cpu() for tensor in state)
