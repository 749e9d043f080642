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

from snn_rl.agents.agent import Agent
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.errors import SnnRlError
from snn_rl.exchange.one_frame import one_frame

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


def record(agent: Agent, frames: int) -> Trace:
    """The agent's own greedy play on evaluation seeds.

    Raises:
        UnsupportedEnvironment: the environment cannot be made.
        SnnRlError: `frames` is below 1.
    """
    if frames < 1:
        raise SnnRlError(f"a trace needs at least one frame, not {frames}")
    seen, starts = _play(agent, frames)
    network, policy = one_frame(agent), agent.policy
    q = np.empty((frames, agent.num_actions), np.float32)
    state = policy.initial_state(1)
    for n, frame in enumerate(seen):
        # The engine itself, not what is exported.
        q[n], state = policy.q_values(_encoded(agent, frame), state, starts[n : n + 1])
    before, after = (
        {name: t.numpy() for name, t in zip(network.state_names, tensors, strict=True)}
        for tensors in (network.example(1)[1], network.kept(state))
    )
    return Trace(seen, starts, q, before, after)


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


def _encoded(agent: Agent, frame: NDArray[Any]) -> NDArray[Any]:
    """[1, *frame_shape] as the network reads it."""
    return frame[None] if agent.policy.privileged else agent.pipeline.encode(frame[None])


def _play(agent: Agent, frames: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Frames of the agent's games, before scaling, and which begin an episode."""
    player = agent.with_options()
    vector = trained_in(agent).make_vector(agent.env_id, 1, 0)
    seen: list[NDArray[Any]] = []
    starts = np.zeros(frames, np.bool_)
    over, episode = True, 0
    try:
        while len(seen) < frames:
            if over:
                seed: Any = evaluation_seeds(0, episode + 1)[-1:]
                observation, info = vector.reset(seed=seed)
                episode += 1
                starts[len(seen)] = True
                player.reset()
            shown = player.policy.view(_shown(agent, observation), info, agent.env_id)
            seen.append(shown[0])
            action = player.act(shown)
            observation, _, terminated, truncated, info = vector.step(action)
            over = bool(terminated[0] or truncated[0])
    finally:
        vector.close()
    return np.stack(seen), starts


def _shown(agent: Agent, observation: NDArray[Any]) -> NDArray[Any]:
    """Images grey and resized; vectors as they are, float32."""
    pipeline = agent.pipeline
    return pipeline.encode(observation) if pipeline.pixels else observation.astype(np.float32)
