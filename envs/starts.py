"""All the starts that a deterministic Atari game has: one for each number of no-ops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from snn_rl.envs.atari import AtariVector
from snn_rl.envs.games import UnsupportedEnvironment, atari_game

_FIRST = 200_000_000
# The first seed from there on with which ALE opens by 0, 1, … 29 no-ops.
_PLACES = (
    *(1, 24, 11, 2, 19, 14, 32, 17, 72, 89, 6, 27, 36, 54, 41),
    *(52, 42, 23, 62, 3, 4, 5, 0, 44, 12, 8, 76, 29, 10, 37),
)
STARTS = tuple(_FIRST + place for place in _PLACES)
"""Seed i opens a game with i no-ops; seeds of reported games, unused in training and validation."""

DETERMINISTIC = frozenset({"pong"})
"""ROMs of which it is tested that nothing but the number of no-ops tells two games apart."""


def has_table(env_id: str, sticky: float | None = None) -> bool:
    """Whether `STARTS` are all the starts of an environment.

    Args:
        sticky: probability of a repeated action; None leaves it as the id has it.

    Raises:
        UnsupportedEnvironment: the id is unknown.
    """
    game = atari_game(env_id)
    if game is None or game.rom not in DETERMINISTIC:
        return False
    return (game.sticky if sticky is None else sticky) == 0


def all_starts(env_id: str, sticky: float | None = None) -> tuple[int, ...]:
    """One seed for every start that the environment has.

    Args:
        sticky: as for `has_table`.

    Raises:
        UnsupportedEnvironment: there is no such table, since the game draws at random in play or
            nobody has shown that it does not.
    """
    if has_table(env_id, sticky):
        return STARTS
    reason = "its starts have no table"
    if has_table(env_id, 0.0):
        reason = "its sticky actions make every game another one"
    raise UnsupportedEnvironment(
        f"{env_id} cannot be played from all of its starts, since {reason}: "
        "name a number of games, e.g. --trials 60"
    )


def count_no_ops(env_id: str, seeds: Sequence[int]) -> NDArray[np.int64]:
    """How many no-ops open the game of each seed, as ALE itself draws them, [seeds].

    Raises:
        UnsupportedEnvironment: it is no Atari game.
    """
    game = atari_game(env_id)
    if game is None:
        raise UnsupportedEnvironment(f"{env_id} is no Atari game: it has no no-ops")
    vector = AtariVector(game, len(seeds), seed=0)
    try:
        _, info = vector.reset(seed=list(seeds))
        return np.asarray(info["episode_frame_number"], np.int64)
    finally:
        vector.close()
