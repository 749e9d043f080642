"""From a traced network to an agent of stage `ann`: its pipeline and its card."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.agent import IMPORTED, Agent
from snn_rl.agents.policy import Policy
from snn_rl.core.network import Network
from snn_rl.envs import EnvironmentSpec, atari_game
from snn_rl.envs.observation import ObservationPipeline
from snn_rl.envs.spaces import make_single
from snn_rl.errors import SnnRlError
from snn_rl.runs.provenance import written


@dataclass(frozen=True)
class Origin:
    """Where an agent comes from.

    Attributes:
        source: who trained it, e.g. "Stable-Baselines3 2.9.2 DQN".
        file: the file it was read from, if any.
        differences: one sentence each on what is not as in its home.
    """

    source: str
    file: Path | None = None
    differences: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, for a card."""
        digest = None
        if self.file is not None:
            with self.file.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "source": self.source,
            "file": self.file.name if self.file else None,
            "sha256": digest,
            "differences": list(self.differences),
        }


def vector_pipeline(spec: EnvironmentSpec, scale: Sequence[float] | None) -> ObservationPipeline:
    """Pipeline of a vector environment that multiplies each feature by `scale`, or by nothing.

    Raises:
        SnnRlError: not one finite factor per feature.
    """
    factors = tuple(float(factor) for factor in scale or ())
    if (factors and (len(factors),) != spec.observation_shape) or not np.isfinite(factors).all():
        raise SnnRlError(
            f"scale needs {spec.observation_shape[0]} finite factors, one per feature of "
            f"{spec.env_id}, but got {list(factors)}"
        )
    return ObservationPipeline("vector", spec.observation_shape, scale=factors)


def image_pipeline(spec: EnvironmentSpec) -> ObservationPipeline:
    """Pipeline of an image environment: one grey frame of 84 x 84 pixels."""
    return ObservationPipeline("image", spec.observation_shape, grey=spec.grey)


def imported_agent(
    network: Network,
    spec: EnvironmentSpec,
    pipeline: ObservationPipeline,
    origin: Origin,
    *,
    maxpool: bool = False,
    fire_reset: bool = False,
) -> Agent:
    """Agent of stage `ann` around a traced network.

    Raises:
        SnnRlError: the network's output is not one Q-value per action of the environment.
    """
    outputs = network.shapes[network.nodes[-1].name]
    if outputs != (spec.num_actions,):
        raise SnnRlError(
            f"the network gives {'x'.join(map(str, outputs))} values; {spec.env_id} has "
            f"{spec.num_actions} actions"
        )
    card = {
        "stage": "ann",
        "environment": {
            "env_id": spec.env_id,
            "num_actions": spec.num_actions,
            "maxpool": maxpool,
            "fire_reset": fire_reset,
        },
        "teacher": None,
        IMPORTED: origin.to_dict(),
        "provenance": {"command": f"imported from {origin.source}", "steps": 0, **written()},
        "results": {},
    }
    return Agent(Policy(network.eval()), pipeline, card)


def check_conditions(spec: EnvironmentSpec, maxpool: bool, fire_reset: bool) -> None:
    """Raise SnnRlError for what only Atari games know: frames to max-pool, FIRE to press."""
    if maxpool and atari_game(spec.env_id) is None:
        raise SnnRlError(f"{spec.env_id} is no Atari game: its frames cannot be max-pooled")
    if fire_reset and not has_fire(spec):
        raise SnnRlError(f"{spec.env_id} knows no FIRE: nothing can press it at a life's start")


def has_fire(spec: EnvironmentSpec) -> bool:
    """Whether Stable-Baselines3's AtariWrapper opens this environment's lives with FIRE."""
    if atari_game(spec.env_id) is None:
        return False
    env: Any = make_single(spec.env_id)
    try:
        return "FIRE" in env.unwrapped.get_action_meanings()
    finally:
        env.close()


def image_differences(spec: EnvironmentSpec, fire_reset: bool) -> list[str]:
    """What an agent for images finds here that is not as in Stable-Baselines3's AtariWrapper.

    Args:
        fire_reset: FIRE opens its lives.
    """
    if atari_game(spec.env_id) is None:
        return []
    said = ["an episode opens with 0 to 29 raw frames without action, not with 1 to 30"]
    if fire_reset:
        said.append("the agent sees the frames of FIRE and action 2, which open a life, and keeps "
                    "its memory when a life is lost")  # fmt: skip
    elif has_fire(spec):
        said.append("nobody presses FIRE at the start of a life: the agent has to")
    return [*said, grey_difference(spec)]


def grey_difference(spec: EnvironmentSpec, frames: int = 64) -> str:
    """How far this toolkit's grey levels of an Atari game lie from OpenCV's, in one sentence."""
    pipelines = [
        ObservationPipeline("image", spec.observation_shape, grey=grey) for grey in ("ale", "cv2")
    ]
    seen = _random_play(spec, frames)
    ours, theirs = (pipeline.encode(seen).astype(np.int16) for pipeline in pipelines)
    distance = np.abs(ours - theirs)
    return (
        f"grey levels follow ALE's palette, not OpenCV's formula: {(distance > 0).mean():.1%} of "
        f"the pixels differ, by {distance.max()} of 255 at most (random play, {frames} frames)"
    )


def _random_play(spec: EnvironmentSpec, frames: int) -> NDArray[np.uint8]:
    env = make_single(spec.env_id)
    generator = np.random.default_rng(0)
    try:
        seen, over = [env.reset(seed=0)[0]], False
        while len(seen) < frames:
            if over:
                observation, over = env.reset()[0], False
            else:
                action = int(generator.integers(spec.num_actions))
                observation, _, terminated, truncated, _ = env.step(action)
                over = terminated or truncated
            seen.append(observation)
        return np.stack(seen)
    finally:
        env.close()
