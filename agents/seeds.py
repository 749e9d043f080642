"""Seeds of the games that choose weights and of those that are reported: ranges that never meet.

Training episodes use seeds from 2**30 upwards, validation those from `VALIDATION_SEEDS`, reported
trials those from `EVALUATION_SEEDS`. Each training seed has a block of its own in either range, so
what would run over a block's end is refused.
"""

from __future__ import annotations

from snn_rl.errors import SnnRlError

VALIDATION_SEEDS, EVALUATION_SEEDS = 100_000_000, 200_000_000
"""Where the two ranges begin."""
SEEDS_PER_RUN = 10_000
"""Seeds of a block: reported trials at most; validation and confirmation have half of it each."""
BLOCKS = (EVALUATION_SEEDS - VALIDATION_SEEDS) // SEEDS_PER_RUN
"""Seeds of runs, and of evaluations, are below this."""
VALIDATIONS = SEEDS_PER_RUN // 2
"""Validation episodes at most, and as many again that confirm them."""


def evaluation_seeds(seed: int, trials: int) -> list[int]:
    """Seeds of the reported trials, never used in training or validation.

    Raises:
        SnnRlError: the seed or the number of trials lies outside the range.
    """
    _check("evaluation seed", seed, BLOCKS - 1)
    _check("number of trials", trials, SEEDS_PER_RUN)
    return [EVALUATION_SEEDS + seed * SEEDS_PER_RUN + i for i in range(trials)]


def validation_seeds(seed: int, episodes: int, *, confirm: bool = False) -> list[int]:
    """Seeds of the validation episodes, or of those that confirm them.

    Raises:
        SnnRlError: the seed or the number of episodes lies outside the range.
    """
    _check("seed", seed, BLOCKS - 1)
    kind = "confirming" if confirm else "validation"
    _check(f"number of {kind} episodes", episodes, VALIDATIONS)
    first = VALIDATION_SEEDS + seed * SEEDS_PER_RUN + (VALIDATIONS if confirm else 0)
    return [first + i for i in range(episodes)]


def _check(what: str, number: int, largest: int) -> None:
    if not 0 <= number <= largest:
        raise SnnRlError(f"the {what} must be from 0 to {largest}, not {number}")
