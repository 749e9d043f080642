"""Golden traces: what an agent saw and valued in real play, written by the torch engine.

Whoever runs an exported agent replays them: same frames, same Q-values. A trace is a NumPy .npz
file without pickles.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Arrays = tuple[NDArray[Any], ...]
Step = Callable[[NDArray[Any], Arrays], tuple[NDArray[np.float32], Arrays]]
"""What a runtime does with one frame [1, ...] and the state: Q-values [1, actions], new state."""


@dataclass(frozen=True)
class Trace:
    """Frames of consecutive episodes.

    Attributes:
        frames: [count, *frame_shape], uint8 pixels or raw float32 vectors.
        starts: bool [count]: an episode's first frame, before which the state is `start`.
        q: float32 [count, actions].
        start, state: before an episode and after the last frame, by name, [1, ...] each.
    """

    frames: NDArray[Any]
    starts: NDArray[np.bool_]
    q: NDArray[np.float32]
    start: dict[str, NDArray[Any]]
    state: dict[str, NDArray[Any]]

    def save(self, path: Path) -> None:
        """Write it atomically."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        arrays: dict[str, Any] = {"frames": self.frames, "starts": self.starts, "q": self.q}
        arrays |= {f"start.{name}": array for name, array in self.start.items()}
        arrays |= {f"state.{name}": array for name, array in self.state.items()}
        try:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Replay:
    """How a runtime did on a trace.

    Attributes:
        frames: number of frames.
        same_actions: frames with the same greedy action.
        error: largest difference of a Q-value.
        state_error: largest difference in the state after the last frame.
    """

    frames: int
    same_actions: int
    error: float
    state_error: float

    @property
    def exact(self) -> bool:
        """Whether every bit of every Q-value is the same."""
        return self.error == 0 and self.state_error == 0

    def __str__(self) -> str:
        if self.exact:
            return f"exact: {self.frames} frames with the same Q-values, bit for bit"
        return (
            f"approximate: {self.same_actions} of {self.frames} frames with the same action, "
            f"Q-values off by {self.error:.3g} at most, the last state by {self.state_error:.3g}"
        )


def replay(trace: Trace, step: Step) -> Replay:
    """Compare a runtime with a trace, frame by frame, on a state that the runtime itself keeps."""
    begun = tuple(trace.start.values())
    state, same, error = begun, 0, 0.0
    for frame, start, expected in zip(trace.frames, trace.starts, trace.q, strict=True):
        q, state = step(frame[None], begun if start else state)
        same += int(q[0].argmax() == expected.argmax())
        error = max(error, _distance(q[0], expected))
    pairs = zip(state, trace.state.values(), strict=True)
    return Replay(
        len(trace.frames), same, error, max((_distance(a, b) for a, b in pairs), default=0.0)
    )


def torch_step(network: nn.Module) -> Step:
    """A torch module like `OneFrame` as a runtime."""

    @torch.no_grad()
    def step(frame: NDArray[Any], state: Arrays) -> tuple[NDArray[np.float32], Arrays]:
        tensors = tuple(torch.from_numpy(array) for array in state)
        q, after = network(torch.from_numpy(frame), tensors)
        return q.numpy(), tuple(tensor.numpy() for tensor in after)

    return step


def _distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest difference; infinite where one is no number."""
    largest = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))
    return largest if np.isfinite(largest) else float("inf")
