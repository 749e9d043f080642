"""Steps of the kernel that work on vectors of a fixed width, written in LLVM's own instructions.

A sum of many rows stays in registers from the first row to the last, and a comparison yields bits,
neither of which numba's loops become. LLVM splits the vectors into those that the processor has.
Nothing is contracted. Pointers are not checked: whatever calls these knows that they fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types
from numba.core import cgutils

intrinsic: Callable[[Callable[..., Any]], Any] = extending.intrinsic

LANES = 64
"""Values of a step."""
COPIED = 16
"""Values that `shift` copies."""

_WORD = ir.IntType(64)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_WHOLE = ir.VectorType(ir.IntType(32), LANES)
_SHORT = ir.VectorType(ir.IntType(16), LANES)
_INDICES = ir.VectorType(ir.IntType(32), COPIED)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


def _at(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Pointer to an element of an array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _load(builder: Any, pointer: Any, vector: Any, align: int) -> Any:
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=align)


def _store(builder: Any, value: Any, pointer: Any, align: int) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=align)


def _spread(builder: Any, value: Any, vector: Any) -> Any:
    """A vector that holds one value in all lanes."""
    lanes = ir.Constant(vector, ir.Undefined)
    for i in range(vector.count):
        lanes = builder.insert_element(lanes, value, ir.Constant(ir.IntType(32), i))
    return lanes


@intrinsic
def count_ones(typing: Any, word: Any) -> Any:
    """Number of bits that are set in a uint64, as int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def lowest(typing: Any, word: Any) -> Any:
    """Index of the lowest bit that is set in a uint64 other than 0, as int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def differing(typing: Any, a: Any, b: Any, at: Any) -> Any:
    """Which of LANES bytes from index `at` on differ between two arrays, as bits of a uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, at = arguments
        left, right = (
            _load(builder, _at(context, builder, kind, array, at), _BYTES, 1)
            for kind, array in zip(signature.args, (a, b), strict=False)
        )
        return builder.bitcast(builder.icmp_unsigned("!=", left, right), _WORD)

    return types.uint64(a, b, types.int64), generate


def _sum(context: Any, builder: Any, kinds: Any, arguments: Any, start: Any) -> Any:
    """`start` and what whole[first + pitch * r :] holds for each r of rows[:count]."""
    whole, first, pitch, rows, count = arguments
    total = cgutils.alloca_once(builder, _WHOLE)  # type: ignore[no-untyped-call]
    builder.store(start, total)
    base = _at(context, builder, kinds[0], whole, first)
    with cgutils.for_range(builder, count) as loop:
        row = builder.load(_at(context, builder, kinds[3], rows, loop.index), align=4)
        begin = builder.mul(builder.zext(row, _WORD), pitch)
        values = _load(builder, builder.gep(base, [begin]), _SHORT, 2)
        builder.store(builder.add(builder.load(total), builder.sext(values, _WHOLE)), total)
    return builder.load(total)


@intrinsic
def add_rows(
    typing: Any, whole: Any, first: Any, pitch: Any, rows: Any, count: Any, out: Any, at: Any
) -> Any:
    """Add to out[at : at + LANES] what whole[first + pitch * r :] holds there, for each r of
    rows[:count]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *summed, out, at = arguments
        target = _at(context, builder, signature.args[5], out, at)
        start = _load(builder, target, _WHOLE, 4)
        _store(builder, _sum(context, builder, signature.args, summed, start), target, 4)
        return context.get_dummy_value()

    i8 = types.int64
    return types.void(whole, i8, i8, rows, i8, out, i8), generate


@intrinsic
def sum_rows(
    typing: Any,
    whole: Any,
    first: Any,
    pitch: Any,
    rows: Any,
    count: Any,
    unit: Any,
    bias: Any,
    bias_at: Any,
    out: Any,
    at: Any,
) -> Any:
    """Set out[at : at + LANES] to the sum of whole[first + pitch * r :], for each r of
    rows[:count], times `unit`, and bias[bias_at :]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *summed, unit, bias, bias_at, out, at = arguments
        kinds = signature.args
        total = _sum(context, builder, kinds, summed, ir.Constant(_WHOLE, None))
        added = _load(builder, _at(context, builder, kinds[6], bias, bias_at), _FLOATS, 4)
        scaled = builder.fmul(builder.sitofp(total, _FLOATS), _spread(builder, unit, _FLOATS))
        _store(builder, builder.fadd(scaled, added), _at(context, builder, kinds[8], out, at), 4)
        return context.get_dummy_value()

    i8 = types.int64
    return types.void(whole, i8, i8, rows, i8, types.float32, bias, i8, out, i8), generate


@intrinsic
def fire(
    typing: Any,
    leak: Any,
    threshold: Any,
    current: Any,
    before: Any,
    after: Any,
    spikes: Any,
    at: Any,
) -> Any:
    """One timestep of LANES LIF neurons from index `at` on; their spikes as bytes, and as the bits
    of the uint64 returned."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *arrays, at = arguments
        pointers = [
            _at(context, builder, kind, array, at)
            for kind, array in zip(signature.args, arrays, strict=False)
        ]
        leak, v, current, before = (_load(builder, p, _FLOATS, 4) for p in pointers[:4])
        u = builder.fadd(builder.fmul(leak, before), current)
        fires = builder.fcmp_ordered(">", u, v)
        nothing = ir.Constant(_FLOATS, None)
        _store(builder, builder.fsub(u, builder.select(fires, v, nothing)), pointers[4], 4)
        _store(builder, builder.zext(fires, _BYTES), pointers[5], 1)
        return builder.bitcast(fires, _WORD)

    return types.uint64(leak, threshold, current, before, after, spikes, types.int64), generate


@intrinsic
def shift(typing: Any, source: Any, begin: Any, added: Any, target: Any, at: Any) -> Any:
    """COPIED uint32 of `source` from `begin` on, each with `added`, to `target` from `at` on.

    Always so many, since a loop of their true number is mispredicted: what follows overwrites.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, begin, added, target, at = arguments
        kinds = signature.args
        values = _load(builder, _at(context, builder, kinds[0], source, begin), _INDICES, 4)
        to = _at(context, builder, kinds[3], target, at)
        _store(builder, builder.add(values, _spread(builder, added, _INDICES)), to, 4)
        return context.get_dummy_value()

    i8 = types.int64
    return types.void(source, i8, types.uint32, target, i8), generate
