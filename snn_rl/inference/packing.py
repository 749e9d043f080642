"""A plan and its scratch as two blocks of bytes: passing them costs less than a dozen arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.inference import plan as fields
from snn_rl.inference.plan import Plan
from snn_rl.inference.vectors import COPIED, LANES

Bytes = NDArray[np.uint8]

# The head of a plan's block, int64. Where its arrays begin, each ending where the next begins:
PROGRAM, WEIGHTS, WHOLE, TABLES = 0, 1, 2, 3
# Where the pieces of the scratch end, in this order: floats, accumulators, spikes as bytes, spikes
# as bits; then for the gathering of spikes their indices, rows to add, spikes before each position
# and before each word of bits.
FLOATS, ACCUMULATORS, SPIKES, BITS, ENTRIES, ROWS, STARTS, WORDS = 5, 6, 7, 8, 9, 10, 11, 12
# Where in a row of the memo the sums of the first layers end, and behind them the last frame.
SUMS, SEEN = 13, 14
# How many fields the program has.
FIELDS = 15
HEAD = 16
_LINE = 64


@dataclass(frozen=True)
class Packed:
    """What a call of the kernel takes besides frames and states.

    Attributes:
        memory: the plan.
        scratch, memo: sizes in bytes, the latter of a row.
        sums: of that those of the first layers.
    """

    memory: Bytes
    scratch: int
    memo: int
    sums: int


def pack(plan: Plan) -> Packed:
    """Lay a plan out for the kernel."""
    arrays: list[NDArray[Any]] = [plan.program, plan.weights, plan.whole, plan.tables]
    head = np.zeros(HEAD, np.int64)
    end = 8 * HEAD
    for i, array in enumerate(arrays):
        head[i], end = end, end + _lines(array.nbytes)
    head[len(arrays)] = end
    gathered = plan.program[plan.program[:, fields.SEGMENTS] > 0]
    inputs = int(gathered[:, fields.INPUTS].max(initial=0))
    positions = int(gathered[:, fields.POSITIONS].max(initial=0))
    scratch = 0
    for i, size in (
        (FLOATS, 4 * plan.floats),
        (ACCUMULATORS, 4 * plan.accumulators),
        (SPIKES, plan.spikes),
        (BITS, 8 * (plan.spikes // LANES + 1)),
        (ENTRIES, 4 * (inputs + COPIED)),
        (ROWS, 4 * (inputs + COPIED)),
        (STARTS, 4 * (positions + 1)),
        (WORDS, 4 * (inputs // LANES + 2)),
    ):
        scratch += _lines(size)
        head[i] = scratch
    head[FIELDS] = plan.program.size
    head[SUMS] = sums = _lines(plan.sums.nbytes)
    head[SEEN] = seen = sums + (plan.inputs if plan.pixels else 0)
    memory = aligned(end)
    memory[: head.nbytes] = head.view(np.uint8)
    for i, array in enumerate(arrays):
        memory[head[i] :][: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return Packed(memory, scratch, _lines(seen), sums)


def aligned(size: int) -> Bytes:
    """Bytes, zero, that begin at a cache line."""
    room = np.zeros(size + _LINE, np.uint8)
    begin = -room.ctypes.data % _LINE
    return room[begin : begin + size]


def _lines(size: int) -> int:
    return -(-size // _LINE) * _LINE
