"""What tests do with Atari games."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np

from snn_rl.envs import (
    EnvironmentSpec,
)
from snn_rl.envs.spaces import describe, make_single

PONG, BREAKOUT = "PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"
ENTRY = "ale_py.env:AtariEnv"
single = functools.cache(make_single)  # loading a ROM takes as long as 200 decisions


def spec_of(env_id: str) -> EnvironmentSpec:
    return describe(env_id, single(env_id))


def actions_for(vector: gym.vector.VectorEnv, count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    limit = vector.single_action_space.n  # type: ignore[attr-defined]
    return generator.integers(limit, size=(count, vector.num_envs))


def play(vector: gym.vector.VectorEnv, actions: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    return [vector.step(action)[:4] for action in actions]


def plain_game(env_id: str, seed: int, frame_number: int) -> Any:
    """Gymnasium's environment, not sticky, seeded and brought to a frame as the vector does."""
    env: Any = single(env_id).unwrapped
    env.ale.setFloat("repeat_action_probability", 0.0)
    env.ale.setInt("random_seed", seed)
    env.load_game()
    env.ale.reset_game()
    while env.ale.getEpisodeFrameNumber() < frame_number:
        env.ale.act(0)
    return env
