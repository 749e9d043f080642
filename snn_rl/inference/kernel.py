"""The one compiled function that runs any plan.

Why it looks as it does. Without fast-math nothing is contracted, so that leak * u + i rounds
twice; all other sums are exact on the weight grid, in whatever order. Indices are unsigned, or
sliced off before a loop: numba lets negative ones wrap around, which keeps loops from becoming
vector instructions. numba's cache sees changes of this file alone, so that all it compiles stands
here; whoever changes the constants of snn_rl.inference.plan raises LAYOUT, to change this file.
"""

from __future__ import annotations

import numba
import numpy as np

from snn_rl.inference import plan
from snn_rl.inference.compiling import compiled

LAYOUT = 2
"""Version of the plan's format that this file was written for."""

PIXELS, DENSE, SCATTER, SCALE, ADD = plan.PIXELS, plan.DENSE, plan.SCATTER, plan.SCALE, plan.ADD
LIF, READOUT = plan.LIF, plan.READOUT
IN_SPIKES, IN_SUMS = plan.IN_SPIKES, plan.IN_SUMS
KIND, STATIC, SOURCE, SOURCE_IN, INPUTS = (
    plan.KIND, plan.STATIC, plan.SOURCE, plan.SOURCE_IN, plan.INPUTS,
)  # fmt: skip
TARGET, OUTPUTS, WEIGHTS, BIAS, TABLE = (
    plan.TARGET, plan.OUTPUTS, plan.WEIGHTS, plan.BIAS, plan.TABLE,
)  # fmt: skip
CHANNELS, KERNEL, ROW, PER_GROUP, OUT_CHANNELS = (
    plan.CHANNELS, plan.KERNEL, plan.ROW, plan.PER_GROUP, plan.OUT_CHANNELS,
)  # fmt: skip
SECOND, SECOND_IN, MEMBRANE, ACCUMULATOR = (
    plan.SECOND, plan.SECOND_IN, plan.MEMBRANE, plan.ACCUMULATOR,
)  # fmt: skip

_ZERO, _ONE, _UNIT = np.float32(0.0), np.float32(1.0), np.float32(2.0**-8)
_LOWEST, _TOP_BYTE = np.uint64(1), np.uint64(56)
# A word in which bit 8 * j alone is set, times this, has j in its top byte.
_NUMBER = np.uint64(0x0001020304050607)

# One frame of a batch: see snn_rl.inference.engine, which calls it.
SIGNATURE = (
    "void(int64[:,::1], float32[::1], int16[::1], uint32[::1], uint8[:,::1], float32[:,::1], "
    "uint8[:,::1], float32[:,::1], float32[:,::1], float32[:,::1], float32[::1], int32[::1], "
    "uint8[::1], int32[:,::1], float32[:,::1], int64)"
)

_inlined = numba.njit(nogil=True, error_model="numpy")


@_inlined
def _add_runs(tables, weights, bounds, base, group, factor, out):  # type: ignore[no-untyped-def]
    """Add the weights of one input, times `factor`, to the outputs that it reaches."""
    y0, y1 = np.int64(tables[bounds]), np.int64(tables[bounds + 1])
    x0, x1 = np.int64(tables[bounds + 2]), np.int64(tables[bounds + 3])
    for j in range(y0, y1, 2):
        from_y, to_y = base + np.uint64(tables[j]), group + np.uint64(tables[j + 1])
        for k in range(x0, x1, 3):
            w, o = from_y + np.uint64(tables[k]), to_y + np.uint64(tables[k + 1])
            for n in range(np.uint64(tables[k + 2])):
                out[o + n] += factor * weights[w + n]


@_inlined
def _base(op, channel):  # type: ignore[no-untyped-def]
    """Where the weights of an input channel begin, and its group's output channels."""
    group = 0
    if op[PER_GROUP] != op[CHANNELS]:
        group = channel // op[PER_GROUP] * op[ROW]
    return np.uint64(op[WEIGHTS] + channel * op[KERNEL]), np.uint64(group)


@_inlined
def _pixels(op, tables, weights, now, seen, sums):  # type: ignore[no-untyped-def]
    """Bring the sums of the frame `seen` to those of `now`."""
    image = op[INPUTS] // op[CHANNELS]
    out = sums[op[TARGET] : op[TARGET] + op[OUTPUTS]]
    words = op[INPUTS] // 8
    new, old = now[: 8 * words].view(np.uint64), seen[: 8 * words].view(np.uint64)
    channel, p = 0, 0
    while p < op[INPUTS]:
        if p < 8 * words and p % 8 == 0 and new[p // 8] == old[p // 8]:
            p += 8
            continue
        if now[p] != seen[p]:
            while p >= (channel + 1) * image:
                channel += 1
            base, group = _base(op, channel)
            step = np.float32(np.int32(now[p]) - np.int32(seen[p])) * _UNIT
            at = op[TABLE] + 4 * (p - channel * image)
            _add_runs(tables, weights, at, base, group, step, out)
        p += 1


@_inlined
def _add_rows(tables, whole, bounds, group, count, rows, out):  # type: ignore[no-untyped-def]
    """Add the weights of `count` (1 to 4) spikes at one position, whose weights begin at `rows`.

    Together they read and write every output once, where each by itself would do so anew.
    """
    y0, y1 = np.int64(tables[bounds]), np.int64(tables[bounds + 1])
    x0, x1 = np.int64(tables[bounds + 2]), np.int64(tables[bounds + 3])
    first, second, third, fourth = rows
    for j in range(y0, y1, 2):
        from_y, to_y = np.uint64(tables[j]), group + np.uint64(tables[j + 1])
        for k in range(x0, x1, 3):
            w, o = from_y + np.uint64(tables[k]), to_y + np.uint64(tables[k + 1])
            length = np.uint64(tables[k + 2])
            a, b, c, d = w + first, w + second, w + third, w + fourth
            if count == 1:
                for n in range(length):
                    out[o + n] = np.int32(out[o + n] + np.int32(whole[a + n]))
            elif count == 2:
                for n in range(length):
                    pair = np.int32(whole[a + n]) + np.int32(whole[b + n])
                    out[o + n] = np.int32(out[o + n] + pair)
            elif count == 3:
                for n in range(length):
                    pair = np.int32(whole[a + n]) + np.int32(whole[b + n])
                    out[o + n] = np.int32(out[o + n] + pair + np.int32(whole[c + n]))
            else:
                for n in range(length):
                    pair = np.int32(whole[a + n]) + np.int32(whole[b + n])
                    other = np.int32(whole[c + n]) + np.int32(whole[d + n])
                    out[o + n] = np.int32(out[o + n] + pair + other)


@_inlined
def _spikes(op, tables, whole, x, out):  # type: ignore[no-untyped-def]
    """Add what the spikes `x`, bytes in whole words, bring to `out`."""
    words = x.view(np.uint64)
    position, end = 0, op[CHANNELS]
    count, at_group = 0, np.uint64(0)
    first = second = third = fourth = np.uint64(0)
    for i in range(len(words)):
        word = words[i]
        while word != 0:
            spike = 8 * i + np.int64(((word & (~word + _LOWEST)) * _NUMBER) >> _TOP_BYTE)
            word &= word - _LOWEST
            base, group = np.uint64(0), np.uint64(0)
            inside = spike < end
            if inside:
                base, group = _base(op, spike - end + op[CHANNELS])
            if count == 4 or (count > 0 and (not inside or group != at_group)):
                rows = (first, second, third, fourth)
                bounds = op[TABLE] + 4 * position
                _add_rows(tables, whole, bounds, at_group, count, rows, out)
                count = 0
            if not inside:
                while spike >= end:
                    position += 1
                    end += op[CHANNELS]
                base, group = _base(op, spike - end + op[CHANNELS])
            at_group = group
            if count == 0:
                first = base
            elif count == 1:
                second = base
            elif count == 2:
                third = base
            else:
                fourth = base
            count += 1
    if count > 0:
        rows = (first, second, third, fourth)
        _add_rows(tables, whole, op[TABLE] + 4 * position, at_group, count, rows, out)


@_inlined
def _off_grid(op, weights, total, out):  # type: ignore[no-untyped-def]
    """Sums of whole weights as floats, with their bias: exact, since they stay below 2^24."""
    unit, channels = weights[op[SECOND]], op[OUT_CHANNELS]
    bias = weights[op[BIAS] : op[BIAS] + channels]
    for at in range(0, len(out), channels):
        a, o = total[at : at + channels], out[at : at + channels]
        for n in range(channels):
            o[n] = np.float32(a[n]) * unit + bias[n]


@_inlined
def _values(op, tables, weights, x, out):  # type: ignore[no-untyped-def]
    """Add what the floats `x` bring to `out`: sums of pooled spikes or pixels."""
    position, end = 0, op[CHANNELS]
    for i in range(len(x)):
        if x[i] != _ZERO:
            while i >= end:
                position += 1
                end += op[CHANNELS]
            base, group = _base(op, i - end + op[CHANNELS])
            _add_runs(tables, weights, op[TABLE] + 4 * position, base, group, x[i], out)


@_inlined
def _dense(op, weights, x, out):  # type: ignore[no-untyped-def]
    """Observation [inputs] times weights [inputs, outputs], in float64, rounded once."""
    size = op[OUTPUTS]
    total = np.zeros(size, np.float64)
    for i in range(len(x)):
        w = weights[op[WEIGHTS] + i * size : op[WEIGHTS] + (i + 1) * size]
        value = np.float64(x[i])
        for n in range(size):
            total[n] += value * np.float64(w[n])
    bias = weights[op[BIAS] : op[BIAS] + size]
    for n in range(size):
        out[n] = np.float32(total[n] + np.float64(bias[n]))


@_inlined
def _fire(op, weights, current, before, after, block, spikes):  # type: ignore[no-untyped-def]
    """One timestep of a layer of LIF neurons; two simple loops, each made of vectors."""
    size = op[OUTPUTS]
    v, leak = weights[op[BIAS] : op[BIAS] + size], weights[op[SECOND] : op[SECOND] + size]
    for n in range(size):
        block[n] = leak[n] * before[n] + current[n]
    for n in range(size):
        fires = block[n] > v[n]
        spikes[n] = np.uint8(fires)
        after[n] = block[n] - (v[n] if fires else _ZERO)


@compiled(SIGNATURE)
def run(  # type: ignore[no-untyped-def]
    program, weights, whole, tables, pixels, observed, seen, sums, before, after, floats,
    accumulators, spikes, counts, q, timesteps,
):  # fmt: skip
    """One frame of every environment of a batch.

    Args:
        program, weights, whole, tables: of the plan.
        pixels: uint8 [batch, inputs] or, for real-valued observations, [0, 0].
        observed: float32 [batch, inputs] or [0, 0].
        seen, sums: the memo of the first layers, at least [batch, ...], brought to this frame.
        before: membranes [batch, neurons]; `after` is filled with those after the frame.
        floats, accumulators, spikes: scratch; `floats` ends with room for the largest layer.
        counts: int32 [batch, neurons] that spikes are added to, or [0, 0].
        q: [batch, outputs], filled.
    """
    block = floats[len(floats) - before.shape[1] :]
    for b in range(len(q)):
        for step in range(-1, timesteps):  # before the first: what is the same at every timestep
            for row in range(len(program)):
                op = program[row]
                if (op[STATIC] == 1) != (step < 0):
                    continue
                kind, source, target = op[KIND], op[SOURCE], op[TARGET]
                if kind == PIXELS:
                    _pixels(op, tables, weights, pixels[b], seen[b], sums[b])
                    continue
                if kind == LIF:
                    first = op[MEMBRANE]
                    size = op[OUTPUTS]
                    held = sums[b] if op[SOURCE_IN] == IN_SUMS else floats
                    old = before[b] if step == 0 else after[b]
                    fired = spikes[target : target + size]
                    _fire(
                        op, weights, held[source : source + size], old[first : first + size],
                        after[b, first : first + size], block[:size], fired,
                    )  # fmt: skip
                    if len(counts) > 0:
                        for n in range(size):
                            counts[b, first + n] += fired[n]
                    continue
                out = floats[target : target + op[OUTPUTS]]
                if kind == DENSE:
                    _dense(op, weights, observed[b], out)
                elif kind == SCALE:
                    factor = weights[op[WEIGHTS]]
                    if op[SOURCE_IN] == IN_SPIKES:
                        for n in range(len(out)):
                            out[n] = np.float32(spikes[source + n]) * factor
                    else:
                        held = sums[b] if op[SOURCE_IN] == IN_SUMS else floats
                        for n in range(len(out)):
                            out[n] = held[source + n] * factor
                elif kind == ADD:
                    held = sums[b] if op[SOURCE_IN] == IN_SUMS else floats
                    other = sums[b] if op[SECOND_IN] == IN_SUMS else floats
                    for n in range(len(out)):
                        out[n] = held[source + n] + other[op[SECOND] + n]
                elif op[SOURCE_IN] == IN_SPIKES:
                    begin = op[ACCUMULATOR]
                    total = accumulators[begin : begin + op[OUTPUTS]]
                    if kind == SCATTER or step == 0:
                        total[:] = 0
                    end = source + (op[INPUTS] + 7) // 8 * 8
                    _spikes(op, tables, whole, spikes[source:end], total)
                    if kind == SCATTER:
                        _off_grid(op, weights, total, out)
                    elif step == timesteps - 1:
                        unit = weights[op[SECOND]]
                        for n in range(len(out)):
                            out[n] = np.float32(total[n]) * unit
                else:
                    if kind == SCATTER:
                        for at in range(0, len(out), op[OUT_CHANNELS]):
                            for n in range(op[OUT_CHANNELS]):
                                out[at + n] = weights[op[BIAS] + n]
                    elif step == 0:
                        out[:] = _ZERO
                    held = sums[b] if op[SOURCE_IN] == IN_SUMS else floats
                    _values(op, tables, weights, held[source : source + op[INPUTS]], out)
                if kind == READOUT and step == timesteps - 1:
                    steps = np.float32(timesteps)
                    for n in range(len(out)):
                        q[b, n] = (out[n] + steps * weights[op[BIAS] + n]) / steps
        if len(pixels) > 0:
            seen[b] = pixels[b]
