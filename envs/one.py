"""One plain Gymnasium environment that shows exactly what an agent was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from snn_rl.envs.games import atari_game
from snn_rl.envs.spaces import make_single
from snn_rl.envs.vector import make_vector


class Trained(Protocol):
    """What an agent tells of its environment, as `snn_rl.Agent` does."""

    @property
    def env_id(self) -> str: ...
    @property
    def env_kwargs(self) -> Mapping[str, Any]: ...
    @property
    def maxpool(self) -> bool: ...
    @property
    def fire_reset(self) -> bool: ...


def make(agent: Trained) -> gym.Env[NDArray[Any], Any]:
    """The environment of an agent, with its frame skip, max-pooling, FIRE, pixels and constructor.

    A loop of `reset(seed=...)`, `agent.act` and `step` over the seeds of
    `snn_rl.agents.seeds.evaluation_seeds` gives the score of `snn-rl evaluate`.

    Raises:
        UnsupportedEnvironment: the environment cannot be made.
    """
    if atari_game(agent.env_id) is None:
        return make_single(agent.env_id, agent.env_kwargs)
    vector = make_vector(
        agent.env_id, 1, seed=0, maxpool=agent.maxpool, fire_reset=agent.fire_reset
    )
    return OneGame(vector)


class OneGame(gym.Env[NDArray[Any], Any]):
    """The only game of a vector environment, as a plain environment."""

    def __init__(self, vector: VectorEnv[NDArray[Any], Any, NDArray[Any]]) -> None:
        self.vector = vector
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin a game, with a seed that game."""
        chosen: Any = None if seed is None else [seed]
        observation, info = self.vector.reset(seed=chosen)
        return observation[0], _first(info)

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take an action, for as many raw frames as the agent's decisions last."""
        observation, reward, terminated, truncated, info = self.vector.step(np.array([action]))
        ends = (bool(terminated[0]), bool(truncated[0]))
        return observation[0], float(reward[0]), *ends, _first(info)

    def close(self) -> None:
        """Free the emulator."""
        self.vector.close()


def _first(info: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[0] for name, values in info.items() if np.ndim(values)}
