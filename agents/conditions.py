"""The conditions that games are played under: what an environment does beyond its rules."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from snn_rl.agents.agent import Agent
from snn_rl.envs import UnsupportedEnvironment, all_starts, make_vector, unlimited

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditions:
    """What an environment does beyond its rules, in training or in evaluation.

    Attributes:
        flicker: probability of a blank frame.
        sticky: probability that the previous action is repeated; None leaves it as the id has it.
        maxpool: Atari frames show the maximum of the last two raw frames.
        fire_reset: FIRE opens every life of an Atari game, whatever the agent chooses.
        env_kwargs: for the environment's constructor.
    """

    flicker: float = 0.0
    sticky: float | None = None
    maxpool: bool = False
    fire_reset: bool = False
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def make_vector(
        self, env_id: str, num_envs: int, seed: int
    ) -> VectorEnv[NDArray[Any], Any, NDArray[Any]]:
        """Vector environment under these conditions. Raises as `snn_rl.envs.make_vector`."""
        return make_vector(env_id, num_envs, seed=seed, **asdict(self))


STANDARD = Conditions()
"""The environment as its id describes it."""


def trained_in(agent: Agent) -> Conditions:
    """The environment as the agent was trained on it, without flicker or sticky actions."""
    return Conditions(
        maxpool=agent.maxpool, fire_reset=agent.fire_reset, env_kwargs=agent.env_kwargs
    )


def every_start(env_id: str, conditions: Conditions) -> list[int]:
    """Seeds of all starts of an environment.

    Raises:
        UnsupportedEnvironment: it draws at random in play, under these conditions or always.
    """
    if conditions.flicker > 0:
        raise UnsupportedEnvironment(
            f"{env_id} under flicker cannot be played from all of its starts, since blank frames "
            "make every game another one: name a number of games, e.g. --trials 60"
        )
    return list(all_starts(env_id, conditions.sticky))


LONGEST_GAME = 10_000
"""Frames after which games are cut off where an environment has no limit of its own."""


def frame_limit(env_id: str, max_frames: int | None) -> int | None:
    """Frames after which games are cut off: `max_frames`, or LONGEST_GAME where neither it nor the
    environment sets a limit; None lets games end as the environment has it."""
    return LONGEST_GAME if max_frames is None and unlimited(env_id) else max_frames


def tell_of_limit(env_id: str, setting: str) -> None:
    """Say when games are cut off, and what changes that, unless the environment says it."""
    if unlimited(env_id):
        log.warning(
            "%s has no limit of time: games are cut off after %d frames; %s sets another number",
            env_id, LONGEST_GAME, setting,
        )  # fmt: skip
