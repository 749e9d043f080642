"""What spikes bring to a layer, output position by output position.

Spikes become a list of indices. The spikes that one output position sees are a few pieces of it,
whose rows of weights are summed in registers. Each spike is looked at once for each position that
sees it, and each sum is written once.
"""

from __future__ import annotations

import numba
import numpy as np

from snn_rl.inference import plan
from snn_rl.inference.vectors import COPIED, LANES, add_rows, count_ones, lowest, shift, sum_rows

INPUTS, OUTPUTS, CHANNELS, OUT_CHANNELS = (
    plan.INPUTS, plan.OUTPUTS, plan.CHANNELS, plan.OUT_CHANNELS,
)  # fmt: skip
SEGMENTS, GATHERED, POSITIONS = plan.SEGMENTS, plan.GATHERED, plan.POSITIONS
BIAS, UNIT = plan.BIAS, plan.SECOND

AT_ONCE = 4  # spikes of a word written at once: few words have more, and the loop ends as foreseen
_LOWEST, _NONE = np.uint64(1), np.uint64(0)
_inlined = numba.njit(nogil=True, error_model="numpy")


@_inlined
def _list(bits, size, entries, before):  # type: ignore[no-untyped-def]
    """Indices of the bits that are set, and how many come before each word; their number."""
    count = 0
    for i in range((size + LANES - 1) // LANES):
        before[i] = count
        word = bits[i]
        size_of = count_ones(word)
        for begin in range(0, size_of, AT_ONCE):
            for k in range(AT_ONCE):
                entries[count + begin + k] = LANES * i + lowest(word)
                word &= word - _LOWEST
        count += size_of
    return count


@_inlined
def locate(op, bits, lists):  # type: ignore[no-untyped-def]
    """List the spikes, and how many come before each input position."""
    entries, _, starts, before = lists
    starts[op[POSITIONS]] = _list(bits, op[INPUTS], entries, before)
    at = np.uint64(0)
    for p in range(op[POSITIONS]):
        word = at // np.uint64(LANES)
        below = (_LOWEST << (at % np.uint64(LANES))) - _LOWEST
        starts[p] = before[word] + count_ones(bits[word] & below)
        at += np.uint64(op[CHANNELS])


@_inlined
def _seen(op, tables, lists, position):  # type: ignore[no-untyped-def]
    """List the rows of weights of the spikes that an output position sees; their number."""
    entries, rows, starts, _ = lists
    count = np.int64(0)
    bounds = op[SEGMENTS] + 2 * position
    for segment in range(np.int64(tables[bounds]), np.int64(tables[bounds + 1]), 3):
        begin = np.int64(starts[tables[segment]])
        size = np.int64(starts[tables[segment + 1]]) - begin
        shift(entries, begin, tables[segment + 2], rows, count)
        if size > COPIED:
            for i in range(COPIED, size, COPIED):
                shift(entries, begin + i, tables[segment + 2], rows, count + i)
        count += size
    return count


@_inlined
def _add_rest(op, whole, rows, count, from_, total):  # type: ignore[no-untyped-def]
    """Add rows of weights from a column on that no longer fills a vector."""
    width = op[OUT_CHANNELS]
    for i in range(count):
        row = op[GATHERED] + np.int64(rows[i]) * width
        for n in range(from_, width):
            total[n] = np.int32(total[n] + np.int32(whole[row + n]))


@_inlined
def gather(op, tables, whole, lists, total):  # type: ignore[no-untyped-def]
    """Add to the whole sums of each output position the rows of the spikes that it sees."""
    rows, width = lists[1], op[OUT_CHANNELS]
    blocks = width // LANES * LANES
    for o in range(op[OUTPUTS] // width):
        count = _seen(op, tables, lists, o)
        for n in range(0, blocks, LANES):
            add_rows(whole, op[GATHERED] + n, width, rows, count, total, o * width + n)
        if blocks < width:
            _add_rest(op, whole, rows, count, blocks, total[o * width : (o + 1) * width])


@_inlined
def gather_floats(op, tables, whole, weights, lists, total, out):  # type: ignore[no-untyped-def]
    """Sums of the rows of the spikes that each output position sees, as floats, with the bias.

    Exact, since they stay below 2^24. `total` has room for one position.
    """
    rows, width, unit = lists[1], op[OUT_CHANNELS], weights[op[UNIT]]
    bias = weights[op[BIAS] : op[BIAS] + width]
    blocks = width // LANES * LANES
    for o in range(op[OUTPUTS] // width):
        count, at = _seen(op, tables, lists, o), o * width
        for n in range(0, blocks, LANES):
            sum_rows(whole, op[GATHERED] + n, width, rows, count, unit, bias, n, out, at + n)
        if blocks < width:
            total[:width] = 0
            _add_rest(op, whole, rows, count, blocks, total)
            for n in range(blocks, width):
                out[at + n] = np.float32(total[n]) * unit + bias[n]
