"""Which episodes a vector environment plays, from which seeds, and what was done in them."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.envs.seeding import RestoreError, checksum, episode_seed, other_course

ROOM = 1024
"""Actions that there is room for at first."""


class Episodes:
    """The current episode of every environment: its number, its seed and its actions.

    Attributes:
        numbers: episodes since the environment's seed was chosen; -1 before the first.
        lengths: decisions taken in them, int64 [environments].
    """

    def __init__(self, count: int, seed: int, seed_every: int) -> None:
        """Before the first reset.

        Args:
            seed: base seed of all episodes that are not seeded explicitly.
            seed_every: only every so many episodes are seeded anew.
        """
        self._seeds, self._indices = [seed] * count, list(range(count))
        self._explicit, self._seed_every = [False] * count, seed_every
        self.numbers = [-1] * count
        self.lengths = np.zeros(count, np.int64)
        self._rows = np.arange(count)
        self._actions = np.zeros((count, ROOM), np.uint8)

    @property
    def begun(self) -> bool:
        """Whether every environment was reset."""
        return min(self.numbers) >= 0

    def choose(self, seeds: Sequence[int | None]) -> None:
        """Go on to the next episode, or to the first of an explicit seed."""
        for i, seed in enumerate(seeds):
            if seed is None:
                self.numbers[i] += 1
            else:
                self._seeds[i], self.numbers[i], self._explicit[i] = int(seed), 0, True

    def next(self, rows: NDArray[np.bool_]) -> None:
        """Go on to the next episode in some environments."""
        for i in np.flatnonzero(rows):
            self.numbers[i] += 1

    def begin(self, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Nothing is done yet in these; how many starts ago each environment was seeded."""
        self.lengths[rows] = 0
        return np.array(self.numbers) % self._seed_every

    def seed(self, i: int) -> int:
        """Of the current episode of environment i, whether or not it was given to the game."""
        return self._seed_of(i, self.numbers[i])

    def last_seed(self, i: int) -> int:
        """The one that environment i was, or is to be, given last."""
        return self._seed_of(i, self.numbers[i] - self.numbers[i] % self._seed_every)

    def _seed_of(self, i: int, number: int) -> int:
        if self._explicit[i] and number == 0:
            return self._seeds[i]
        return episode_seed(self._seeds[i], self._indices[i], number)

    def act(self, actions: NDArray[np.int64]) -> None:
        """Note one action of every environment."""
        if self.lengths.max() == self._actions.shape[1]:
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], 1)
        self._actions[self._rows, self.lengths] = actions
        self.lengths += 1

    def last_action(self, i: int) -> int:
        """What environment i did last in its current episode."""
        return int(self._actions[i, self.lengths[i] - 1])

    def records(self, frames: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """All of it as plain data, with a checksum of what each environment shows."""
        played = [row[:n] for row, n in zip(self._actions, self.lengths, strict=True)]
        return [
            {
                "seed": self._seeds[i],
                "index": self._indices[i],
                "episode": self.numbers[i],
                "explicit": self._explicit[i],
                "actions": base64.b64encode(played[i].tobytes()).decode(),
                "observation_crc32": checksum(frame),
            }
            for i, frame in enumerate(frames)
        ]

    def load(self, records: Sequence[dict[str, Any]]) -> list[NDArray[np.uint8]]:
        """Return to what `records` gave; the actions of every environment, to be played again.

        Raises:
            RestoreError: another number of environments, or no actions of an Atari game.
        """
        count = len(self.numbers)
        if len(records) != count:
            raise RestoreError(f"the snapshot has {len(records)} environments, not {count}")
        try:
            played = [np.frombuffer(base64.b64decode(r["actions"]), np.uint8) for r in records]
        except (TypeError, ValueError):
            raise RestoreError("the snapshot is damaged, or not one of an Atari game") from None
        self._seeds = [record["seed"] for record in records]
        self._indices = [record["index"] for record in records]
        self.numbers = [record["episode"] for record in records]
        self._explicit = [record["explicit"] for record in records]
        return played

    def played(self, actions: Sequence[NDArray[np.uint8]]) -> None:
        """Note that these actions were played again in the current episodes."""
        self.lengths = np.array([len(row) for row in actions])
        room = max(ROOM, 2 * int(self.lengths.max()))
        self._actions = np.zeros((len(actions), room), np.uint8)
        for kept, row in zip(self._actions, actions, strict=True):
            kept[: len(row)] = row

    def check(self, frames: NDArray[np.uint8], records: Sequence[dict[str, Any]]) -> None:
        """Raise RestoreError where an environment shows something else than was recorded."""
        for i, (frame, record) in enumerate(zip(frames, records, strict=True)):
            if checksum(frame) != record["observation_crc32"]:
                raise other_course(self._indices[i], self.numbers[i])

    def name(self, i: int) -> tuple[int, int]:
        """Index and episode of environment i, as messages name them."""
        return self._indices[i], self.numbers[i]
