"""The one compiled function that runs any plan.

Why it looks as it does. Without fast-math nothing is contracted, so that leak * u + i rounds
twice; all other sums are exact on the weight grid, in whatever order. Indices are unsigned, or
sliced off before a loop: numba lets negative ones wrap around, which keeps loops from becoming
vector instructions. numba's cache sees changes of this file alone: whoever changes what it imports
(plan, packing, gathering, vectors) raises LAYOUT, to change this file.
"""

from __future__ import annotations

import numba
import numpy as np

from snn_rl.inference import packing, plan
from snn_rl.inference.compiling import compiled
from snn_rl.inference.gathering import gather, gather_floats, locate
from snn_rl.inference.vectors import LANES, differing, fire, lowest

LAYOUT = 4
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
SECOND, SECOND_IN, MEMBRANE, ACCUMULATOR, SEGMENTS, WIDTH = (
    plan.SECOND, plan.SECOND_IN, plan.MEMBRANE, plan.ACCUMULATOR, plan.SEGMENTS, plan.WIDTH,
)  # fmt: skip

_ZERO, _UNIT, _ONE = np.float32(0.0), np.float32(2.0**-8), np.int32(1)
_LOWEST, _NONE = np.uint64(1), np.uint64(0)

# One frame of a batch: see snn_rl.inference.engine, which calls it.
SIGNATURE = (
    "void(uint8[::1], uint8[::1], uint8[:,::1], uint8[:,::1], float32[:,::1], float32[:,::1], "
    "int32[:,::1], float32[:,::1], int64)"
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
    channel, blocks = 0, op[INPUTS] // LANES
    for i in range(blocks + 1):
        word = _NONE
        if i < blocks:
            word = differing(now, seen, LANES * i)
        else:
            for p in range(LANES * blocks, op[INPUTS]):
                word |= np.uint64(now[p] != seen[p]) << np.uint64(p - LANES * blocks)
        while word != _NONE:
            p = LANES * i + lowest(word)
            word &= word - _LOWEST
            while p >= (channel + 1) * image:
                channel += 1
            base, group = _base(op, channel)
            step = np.float32(np.int32(now[p]) - np.int32(seen[p])) * _UNIT
            at = op[TABLE] + 4 * (p - channel * image)
            _add_runs(tables, weights, at, base, group, step, out)


@_inlined
def _spikes(op, tables, whole, bits, out):  # type: ignore[no-untyped-def]
    """Add what spikes bring, one after the other: where channels come in groups."""
    position, end = 0, op[CHANNELS]
    for i in range((op[INPUTS] + LANES - 1) // LANES):
        word = bits[i]
        while word != _NONE:
            spike = LANES * i + lowest(word)
            word &= word - _LOWEST
            while spike >= end:
                position += 1
                end += op[CHANNELS]
            base, group = _base(op, spike - end + op[CHANNELS])
            _add_runs(tables, whole, op[TABLE] + 4 * position, base, group, _ONE, out)


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
def _fire(op, weights, current, before, after, spikes, bits):  # type: ignore[no-untyped-def]
    """One timestep of a layer of LIF neurons."""
    size = op[OUTPUTS]
    v, leak = weights[op[BIAS] : op[BIAS] + size], weights[op[SECOND] : op[SECOND] + size]
    blocks = size // LANES
    for i in range(blocks):
        bits[i] = fire(leak, v, current, before, after, spikes, LANES * i)
    if LANES * blocks < size:
        word = _NONE
        for n in range(LANES * blocks, size):
            u = leak[n] * before[n] + current[n]
            fires = u > v[n]
            spikes[n] = np.uint8(fires)
            after[n] = u - (v[n] if fires else _ZERO)
            word |= np.uint64(fires) << np.uint64(n - LANES * blocks)
        bits[blocks] = word


@compiled(SIGNATURE)
def run(memory, scratch, memo, frames, before, after, counts, q, timesteps):  # type: ignore[no-untyped-def]
    """One frame of every environment of a batch.

    Args:
        memory, scratch: as snn_rl.inference.packing lays them out.
        memo: bytes [at least batch, ...], a row per environment with the sums of the first layers
            on the frame that follows them; brought to this frame.
        frames: bytes [batch, ...] of pixels or of float32.
        before: membranes [batch, neurons]; `after` is filled with those after the frame.
        counts: int32 [batch, neurons] that spikes are added to, or [0, 0].
        q: [batch, outputs], filled.
    """
    head = memory[: 8 * packing.HEAD].view(np.int64)
    program = memory[head[packing.PROGRAM] : head[packing.PROGRAM + 1]].view(np.int64)
    weights = memory[head[packing.WEIGHTS] : head[packing.WEIGHTS + 1]].view(np.float32)
    whole = memory[head[packing.WHOLE] : head[packing.WHOLE + 1]].view(np.int16)
    tables = memory[head[packing.TABLES] : head[packing.TABLES + 1]].view(np.uint32)
    floats = scratch[: head[packing.FLOATS]].view(np.float32)
    accumulators = scratch[head[packing.FLOATS] : head[packing.ACCUMULATORS]].view(np.int32)
    spikes = scratch[head[packing.ACCUMULATORS] : head[packing.SPIKES]]
    bits = scratch[head[packing.SPIKES] : head[packing.BITS]].view(np.uint64)
    lists = (
        scratch[head[packing.BITS] : head[packing.ENTRIES]].view(np.uint32),
        scratch[head[packing.ENTRIES] : head[packing.ROWS]].view(np.uint32),
        scratch[head[packing.ROWS] : head[packing.STARTS]].view(np.uint32),
        scratch[head[packing.STARTS] : head[packing.WORDS]].view(np.uint32),
    )
    for b in range(len(q)):
        remembered, frame, membranes, fresh = memo[b], frames[b], before[b], after[b]
        sums = remembered[: head[packing.SUMS]].view(np.float32)
        seen = remembered[head[packing.SUMS] : head[packing.SEEN]]
        for step in range(-1, timesteps):  # before the first: what is the same at every timestep
            for row in range(0, head[packing.FIELDS], WIDTH):
                op = program[row : row + WIDTH]
                if (op[STATIC] == 1) != (step < 0):
                    continue
                kind, source, target = op[KIND], op[SOURCE], op[TARGET]
                if kind == PIXELS:
                    _pixels(op, tables, weights, frame, seen, sums)
                    continue
                held = sums if op[SOURCE_IN] == IN_SUMS else floats
                if kind == LIF:
                    first = op[MEMBRANE]
                    size = op[OUTPUTS]
                    old = membranes if step == 0 else fresh
                    fired = spikes[target : target + size]
                    _fire(
                        op, weights, held[source : source + size], old[first : first + size],
                        fresh[first : first + size], fired, bits[target // LANES :],
                    )  # fmt: skip
                    if len(counts) > 0:
                        for n in range(size):
                            counts[b, first + n] += fired[n]
                    continue
                out = floats[target : target + op[OUTPUTS]]
                if kind == DENSE:
                    _dense(op, weights, frame.view(np.float32), out)
                elif kind == SCALE:
                    factor = weights[op[WEIGHTS]]
                    if op[SOURCE_IN] == IN_SPIKES:
                        for n in range(len(out)):
                            out[n] = np.float32(spikes[source + n]) * factor
                    else:
                        for n in range(len(out)):
                            out[n] = held[source + n] * factor
                elif kind == ADD:
                    other = sums if op[SECOND_IN] == IN_SUMS else floats
                    for n in range(len(out)):
                        out[n] = held[source + n] + other[op[SECOND] + n]
                elif op[SOURCE_IN] == IN_SPIKES:
                    begin = op[ACCUMULATOR]
                    total = accumulators[begin : begin + op[OUTPUTS]]
                    here = bits[source // LANES :]
                    if op[SEGMENTS] > 0:
                        locate(op, here, lists)
                    if kind == SCATTER and op[SEGMENTS] > 0:
                        gather_floats(op, tables, whole, weights, lists, total, out)
                        continue
                    if kind == SCATTER or step == 0:
                        total[:] = 0
                    if op[SEGMENTS] > 0:
                        gather(op, tables, whole, lists, total)
                    else:
                        _spikes(op, tables, whole, here, total)
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
                    _values(op, tables, weights, held[source : source + op[INPUTS]], out)
                if kind == READOUT and step == timesteps - 1:
                    steps = np.float32(timesteps)
                    for n in range(len(out)):
                        q[b, n] = (out[n] + steps * weights[op[BIAS] + n]) / steps
        for n in range(len(seen)):
            seen[n] = frame[n]
