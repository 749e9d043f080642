"""Seeds of episodes, and what snapshots of every kind of vector environment share."""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RestoreError(RuntimeError):
    """A snapshot cannot be restored: it does not fit, or re-playing it took another course."""


class NotRepeatable(RestoreError):
    """Re-playing took another course: the environment does not follow from seed and actions."""


def episode_seed(seed: int, index: int, episode: int) -> int:
    """Seed, in 2³⁰ … 2³¹ - 1, of an episode of environment ``index`` under a base seed ≥ 0.

    Seeds below 2³⁰ stay free for validation and evaluation.
    """
    # 31 bits: ALE takes its seeds as signed 32-bit integers.
    return int(np.random.SeedSequence([seed, index, episode]).generate_state(1)[0] >> 2) | 1 << 30


def checksum(observation: NDArray[Any], before: int = 0) -> int:
    """CRC-32 of an observation's bytes, behind those whose checksum is ``before``."""
    return zlib.crc32(np.ascontiguousarray(observation).tobytes(), before)


def other_course(index: int, episode: int) -> NotRepeatable:
    """The error for a replay that showed another observation than the snapshot recorded."""
    return NotRepeatable(
        f"environment {index} gave another observation when episode {episode} was "
        "re-played: it does not repeat from its seed and actions"
    )


def too_short(index: int, episode: int, played: int, recorded: int) -> NotRepeatable:
    """The error for a replay that ended before its last recorded action."""
    return NotRepeatable(
        f"episode {episode} of environment {index} ended after {played} actions "
        f"instead of {recorded}: it does not repeat from its seed and actions"
    )
