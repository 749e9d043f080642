"""Blank observations and repeated actions, drawn from each episode's seed."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

# Streams keep these draws independent of the environment's own.
_FLICKER_STREAM = 0xF11C
_STICKY_STREAM = 0x571C
_BLOCK = 512  # draws made at a time

UNBLANKED = "unblanked"
"""Where ``info`` holds the observation as it was before ``Flicker`` blanked it, or not."""


def check_probability(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``0 <= value <= 1``."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is a probability from 0 to 1, but got {value}")


class Flicker(gym.Wrapper[NDArray[Any], Any, NDArray[Any], Any]):
    """Blank each observation to zeros with a fixed probability, independently.

    The first observation of an episode takes part. ``info[UNBLANKED]`` is what there was to see.
    The draws follow from the seed given to ``reset``, without changing the environment's own
    randomness.
    """

    def __init__(self, env: gym.Env[NDArray[Any], Any], probability: float) -> None:
        """Wrap ``env``; raises ``ValueError`` unless ``0 <= probability <= 1``."""
        super().__init__(env)
        check_probability("flicker", probability)
        self.probability = probability
        self._generator = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode; a seed also determines which observations are blanked."""
        if seed is not None:
            self._generator = np.random.default_rng([seed, _FLICKER_STREAM])
        observation, info = self.env.reset(seed=seed, options=options)
        return self._blank(observation), info | {UNBLANKED: observation}

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Step the environment and blank what it shows, or not."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = info | {UNBLANKED: observation}
        return self._blank(observation), float(reward), terminated, truncated, info

    def _blank(self, observation: NDArray[Any]) -> NDArray[Any]:
        blank = self._generator.random() < self.probability
        return np.zeros_like(observation) if blank else observation


class Sticky(gym.Wrapper[NDArray[Any], Any, NDArray[Any], Any]):
    """Repeat the previous action instead of the chosen one with a fixed probability.

    The first action of an episode is always the chosen one. The draws follow from the seed given
    to ``reset``, without changing the environment's own randomness.
    """

    def __init__(self, env: gym.Env[NDArray[Any], Any], probability: float) -> None:
        """Wrap ``env``; raises ``ValueError`` unless ``0 <= probability <= 1``."""
        super().__init__(env)
        check_probability("sticky", probability)
        self.probability = probability
        self._generator = np.random.default_rng()
        self._action: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode; a seed also determines which actions are repeated."""
        if seed is not None:
            self._generator = np.random.default_rng([seed, _STICKY_STREAM])
        self._action = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take ``action``, or the previous one again."""
        repeat = self._generator.random() < self.probability
        if not repeat or self._action is None:
            self._action = action
        observation, reward, terminated, truncated, info = self.env.step(self._action)
        return observation, float(reward), terminated, truncated, info


class VectorFlicker:
    """``Flicker`` for a batch: the same draws, without a loop over the environments."""

    def __init__(self, probability: float, num_envs: int) -> None:
        """Draw for ``num_envs`` environments; raises ``ValueError`` unless a probability."""
        check_probability("flicker", probability)
        self.probability = probability
        self._rows = np.arange(num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._draws = np.ones((num_envs, _BLOCK))
        self._blocks = np.full(num_envs, -1)

    def begin(self, row: int, seed: int) -> None:
        """Start an episode of one environment."""
        self._generators[row] = np.random.default_rng([seed, _FLICKER_STREAM])
        self._blocks[row] = -1

    def blank(
        self, observations: NDArray[Any], numbers: NDArray[np.int64], info: dict[str, Any]
    ) -> None:
        """Blank some of the ``observations`` ``[num_envs, …]`` in place.

        Args:
            observations: one per environment.
            numbers: how many observations of its episode came before each, ``[num_envs]``.
            info: is given a copy of the observations as they were, as ``UNBLANKED``.
        """
        if not self.probability:
            return
        info[UNBLANKED] = observations.copy()
        blocks, places = np.divmod(numbers, _BLOCK)
        for row in np.flatnonzero(blocks > self._blocks):
            for _ in range(blocks[row] - self._blocks[row]):
                self._draws[row] = self._generators[row].random(_BLOCK)
        self._blocks = blocks
        observations[self._draws[self._rows, places] < self.probability] = 0
