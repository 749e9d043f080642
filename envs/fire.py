"""FIRE at the start of every life, as Stable-Baselines3's AtariWrapper and CleanRL press it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.envs.seeding import RestoreError

FIRE = "FIRE"
OPENING = (1, 2)
"""FIRE, and the action that their wrapper takes after it."""


class FireReset:
    """Takes the first decisions of every life in the agent's place.

    Attributes:
        left: actions of OPENING that are still to come, ``[num_envs]``.
        lives: of the current games, ``[num_envs]``; 0 in games that count none.
    """

    def __init__(self, num_envs: int) -> None:
        """Watch so many games."""
        self.left = np.zeros(num_envs, np.int64)
        self.lives = np.zeros(num_envs, np.int64)

    def replace(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        """What is taken instead of an agent's actions ``[num_envs]``."""
        opening = np.array([0, *reversed(OPENING)])[self.left]
        return np.where(self.left > 0, opening, actions)

    def observe(self, lives: NDArray[Any], begun: NDArray[np.bool_]) -> None:
        """Take note of a step: the lives after it, and where an episode begins."""
        lost = (lives < self.lives) & (lives > 0)
        self.left = np.where(begun | lost, len(OPENING), np.maximum(self.left - 1, 0))
        self.lives = np.asarray(lives, np.int64).copy()

    def snapshot(self, row: int) -> dict[str, int]:
        """JSON-able state of one game."""
        return {"left": int(self.left[row]), "lives": int(self.lives[row])}

    def restore(self, records: Sequence[Any]) -> None:
        """Go back to states of `snapshot`, one per game.

        Raises:
            RestoreError: they are none.
        """
        try:
            left, lives = (np.array([r[k] for r in records], np.int64) for k in ("left", "lives"))
        except (TypeError, KeyError, ValueError, OverflowError):
            raise RestoreError("the snapshot does not say where FIRE is due") from None
        if not ((left >= 0) & (left <= len(OPENING))).all():
            raise RestoreError("the snapshot does not say where FIRE is due")
        self.left, self.lives = left, lives
