"""What spikes bring to a layer, output position by output position.

Spikes become a list of indices. The spikes that one output position sees are a few pieces of it,
whose rows of weights are summed in registers. Each spike is looked at once for each position that
sees it, and each sum is written once.
"""

from __future__ import annotations

import numba
import numpy as np

from snn_rl.inference import plan
from snn_rl.inference.vectors import COPIED, LANES, add_rows, count_ones, lowest, shift

INPUTS, OUTPUTS, CHANNELS, OUT_CHANNELS = (
    plan.INPUTS, plan.OUTPUTS, plan.CHANNELS, plan.OUT_CHANNELS,
)  # fmt: skip
SEGMENTS, GATHERED, POSITIONS = plan.SEGMENTS, plan.GATHERED, plan.POSITIONS

_LOWEST, _NONE = np.uint64(1), np.uint64(0)
_inlined = numba.njit(nogil=True, error_model="numpy")


@_inlined
def _list(bits, size, entries, before):  # type: ignore[no-untyped-def]
    """Indices of the bits that are set, and how many come before each word; their number."""
    count = 0
    for i in range((size + LANES - 1) // LANES):
        before[i] = count
        word = bits[i]
        while word != _NONE:
            entries[count] = LANES * i + lowest(word)
            count += 1
            word &= word - _LOWEST
    return count


@_inlined
def gather(op, tables, whole, bits, lists, out):  # type: ignore[no-untyped-def]
    """Add to each output position the rows of the spikes that it sees."""
    entries, rows, starts, before = lists
    positions, channels, width = op[POSITIONS], op[CHANNELS], op[OUT_CHANNELS]
    starts[positions] = _list(bits, op[INPUTS], entries, before)
    for p in range(positions):
        at = p * channels
        below = (_LOWEST << np.uint64(at % LANES)) - _LOWEST
        starts[p] = before[at // LANES] + count_ones(bits[at // LANES] & below)
    blocks = width // LANES * LANES
    for o in range(op[OUTPUTS] // width):
        count = np.int64(0)
        bounds = op[SEGMENTS] + 2 * o
        for segment in range(np.int64(tables[bounds]), np.int64(tables[bounds + 1]), 3):
            begin = np.int64(starts[tables[segment]])
            size = np.int64(starts[tables[segment + 1]]) - begin
            for i in range(0, size, COPIED):
                shift(entries, begin + i, tables[segment + 2], rows, count + i)
            count += size
        if count == 0:
            continue
        for n in range(0, blocks, LANES):
            add_rows(whole, op[GATHERED] + n, width, rows, count, out, o * width + n)
        for i in range(count if blocks < width else 0):
            row = op[GATHERED] + np.int64(rows[i]) * width
            for n in range(blocks, width):
                out[o * width + n] = np.int32(out[o * width + n] + np.int32(whole[row + n]))
