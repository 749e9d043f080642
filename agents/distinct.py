"""How many of several games are different: aligned where play begins to count, at the first reward.

A deterministic game that begins a few frames later, and then takes the same course, is the same
game. Agents whose membranes remember the wait may still choose other actions where these change
nothing; of an Atari game the points alone tell, when each was won or lost and how high it was.
Where every step pays (CartPole), rewards tell nothing, so that actions count as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class GameEvents:
    """What happens in one game from its first reward on, or in all of it if there is none.

    Attributes:
        points_only: actions do not count once there was a reward.
    """

    points_only: bool
    scored: bool = False
    frames: int = 0
    events: list[tuple[int, int | None, float]] = field(default_factory=list)

    def add(self, action: int, reward: float) -> None:
        """Note the next frame of the game."""
        if reward != 0 and not self.scored:
            self.scored, self.frames, self.events = True, 0, []
        if not (self.scored and self.points_only):
            self.events.append((self.frames, action, reward))
        elif reward != 0:
            self.events.append((self.frames, None, reward))
        self.frames += 1


def count_distinct(games: Iterable[GameEvents]) -> int:
    """Number of different games."""
    return len({(game.scored, *game.events) for game in games})
