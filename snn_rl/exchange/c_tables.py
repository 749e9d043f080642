"""The texts of a C99 export: the event-driven engine's plan as tables, beside one runtime.

The runtime is written by hand (c/agent.c, c/agent.h in this folder); what is generated is tables
and sizes. It does what `snn_rl.inference.kernel` does, in the same order, so that Q-values are the
same bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from string import Template

import numpy as np
from numpy.typing import NDArray

import snn_rl
from snn_rl.errors import SnnRlError
from snn_rl.exchange.c_plan import gathers, slimmed
from snn_rl.exchange.golden import Trace
from snn_rl.exchange.one_frame import MEMBRANE
from snn_rl.inference import plan
from snn_rl.inference.plan import Layer, Plan

FIELDS = {
    plan.KIND: "kind", plan.STATIC: "once", plan.SOURCE: "source", plan.SOURCE_IN: "source_in",
    plan.INPUTS: "inputs", plan.TARGET: "target", plan.OUTPUTS: "outputs",
    plan.WEIGHTS: "weights", plan.BIAS: "bias", plan.TABLE: "table", plan.CHANNELS: "channels",
    plan.KERNEL: "kernel", plan.ROW: "row", plan.PER_GROUP: "per_group",
    plan.OUT_CHANNELS: "out_channels", plan.SECOND: "second", plan.SECOND_IN: "second_in",
    plan.MEMBRANE: "membrane", plan.ACCUMULATOR: "accumulator",
}  # fmt: skip
"""Members of C's Operation by field of the program."""
KINDS = {
    plan.PIXELS: "PIXELS", plan.DENSE: "DENSE", plan.SCATTER: "SCATTER", plan.SCALE: "SCALE",
    plan.ADD: "ADD", plan.LIF: "LIF", plan.READOUT: "READOUT",
}  # fmt: skip
PLACES = {
    plan.IN_PIXELS: "IN_PIXELS", plan.IN_OBSERVED: "IN_OBSERVED", plan.IN_SPIKES: "IN_SPIKES",
    plan.IN_FLOATS: "IN_FLOATS", plan.IN_SUMS: "IN_SUMS",
}  # fmt: skip
WIDTH, COPIED = 100, 16


@dataclass(frozen=True)
class Recipe:
    """What runs in C: a plan and how it is used.

    Attributes:
        timesteps: spiking steps per frame.
        carry: membranes survive from frame to frame.
        scale: factor per feature of a raw vector; () leaves it as it is.
        title: of the agent, for the files' first line.
    """

    plan: Plan
    timesteps: int
    carry: bool
    scale: tuple[float, ...] = ()
    title: str = "A spiking agent"

    def __post_init__(self) -> None:
        if not 1 <= self.timesteps <= self.plan.most_timesteps:
            raise SnnRlError(
                f"there is no export to C at T = {self.timesteps}: the read-out is exact for T "
                f"from 1 to {self.plan.most_timesteps}"
            )


def sources(recipe: Recipe, trace: Trace, stem: str = "agent") -> dict[str, str]:
    """Texts by file name: `stem`.c, `stem`.h, and `stem`_trace.h, which only the self-test reads.

    Args:
        trace: of the same agent; none of its Q-values is computed here.

    Raises:
        SnnRlError: `stem` is no name that C can include.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.+-]+", stem):
        raise SnnRlError(f"{stem!r} holds other characters than letters, digits, _ . + -")
    recipe = replace(recipe, plan=slimmed(recipe.plan))
    common = {"stem": stem, "title": _comment(recipe.title), "version": snn_rl.__version__}
    tables, constants = _tables(recipe)
    header = common | _sizes(recipe) | {"constants": str(constants)}
    return {
        f"{stem}.c": _filled("agent.c", common | {"tables": tables, "copied": str(COPIED)}),
        f"{stem}.h": _filled("agent.h", header),
        f"{stem}_trace.h": _trace(recipe.plan, trace, common),
    }


def _filled(name: str, values: dict[str, str]) -> str:
    template = resources.files(__package__).joinpath("c", name).read_text(encoding="utf-8")
    return Template(template).substitute(values)


def _sizes(recipe: Recipe) -> dict[str, str]:
    """The header's numbers."""
    network = recipe.plan
    inputs, history = int(np.prod(network.input_shape)), network.stack - 1
    seen = network.inputs if network.pixels else 0
    value = 1 if network.pixels else 4
    rooms = {
        "sums": len(network.sums), "floats": network.floats, "accumulators": network.accumulators,
        "seen": seen, "spikes": network.spikes,
    }  # fmt: skip
    rooms = {name: max(size, 1) for name, size in rooms.items()}  # C has no empty arrays
    words = sum(rooms[name] for name in ("sums", "floats", "accumulators"))
    lists, index = _lists(network)
    memory = (
        _rounded(4 * network.neurons + value * max(history * inputs, 1))
        + 4 * words
        + index * sum(lists.values())
        + _rounded(value * network.inputs + rooms["seen"] + rooms["spikes"])
    )
    frame = "".join(f"[{n}]" for n in network.input_shape)
    kind = "uint8, grey and resized" if network.pixels else "the raw vector"
    return {name: str(size) for name, size in (rooms | lists).items()} | {
        "pixels": str(int(network.pixels)), "inputs": str(inputs), "history": str(history),
        "index": f"uint{8 * index}_t", "frame": f"{frame}, {kind}", "actions": str(network.outputs),
        "timesteps": str(recipe.timesteps), "carry": str(int(recipe.carry)),
        "neurons": str(network.neurons), "memory": str(memory), "layers": _layers(network.layers),
    }  # fmt: skip


def _lists(network: Plan) -> tuple[dict[str, int], int]:
    """Room for the lists of spikes and of rows of weights, and bytes of a number in them."""
    rows = [row for row in network.program if gathers(row)]
    inputs = max((int(row[plan.INPUTS]) for row in rows), default=0)
    positions = max((int(row[plan.INPUTS] // row[plan.CHANNELS]) for row in rows), default=0)
    most = max((_seen(row) for row in rows), default=0)
    sizes = {"list": inputs + COPIED, "before": positions + 1, "rows": most + COPIED}
    width = 2 if max(inputs, most) < 2**16 else 4
    return {name: size + size % 2 for name, size in sizes.items()}, width


def _seen(row: NDArray[np.int64]) -> int:
    """Inputs of one output position."""
    return int(row[plan.KERNEL] // row[plan.OUT_CHANNELS] * row[plan.CHANNELS])


def _rounded(size: int) -> int:
    """To whole 32-bit words."""
    return -(-size // 4) * 4


def _layers(layers: Iterable[Layer]) -> str:
    """One line per layer; names as C allows them, told apart by a number where they clash."""
    lines, known = [], set[str]()
    for layer in layers:
        name = "SNN_MEMBRANES_" + re.sub(r"[^A-Za-z0-9]", "_", layer.name).upper()
        while name in known:
            name += "_"
        known.add(name)
        lines.append(f"#define {name} {layer.first} /* {_comment(_order(layer))} */")
    return "\n".join(lines)


def _order(layer: Layer) -> str:
    """How a layer's neurons lie."""
    if len(layer.shape) == 3:
        channels, height, width = layer.shape
        return f"[{height}][{width}][{channels}]: y, x, channel"
    apart = int(layer.order[1]) if layer.size > 1 else 1
    if apart == 1:
        return f"[{layer.size}]"
    return f"[{apart}][{layer.size // apart}]: position, channel"


def _comment(text: str) -> str:
    """Safe between comment marks, on one line."""
    return " ".join(re.sub(r"[^ -~]", "?", text).replace("*/", "* /").split())


def _tables(recipe: Recipe) -> tuple[str, int]:
    """Declarations of all constants, and their size in bytes."""
    network = recipe.plan
    rows = [_operation(row) for row in network.program]
    parts = [
        "static const Operation program[] = {\n" + ",\n".join(rows) + "\n};",
        _array("float", "weights", _floats(network.weights)),
        _array("int16_t", "whole", map(str, network.whole.tolist() or [0])),
        _array("uint32_t", "tables", map(str, network.tables.tolist())),
    ]
    size = 4 * network.program.size + 4 * len(network.weights)
    size += 2 * max(len(network.whole), 1) + 4 * len(network.tables)
    begins = "0.0f"
    if network.resting.any():
        parts.append(_array("float", "resting", _floats(network.resting)))
        begins, size = "resting[n]", size + network.resting.nbytes
    parts.append(f"#define SNN_RESTING(n) {begins} /* a membrane where an episode begins */")
    if network.pixels:
        parts.append(
            f"#define SNN_OFFSET {network.offset} /* the grey level that counts as zero */"
        )
        parts.append(_array("float", "sums", _floats(network.sums)))
        size += 4 * len(network.sums)
    else:
        factors = np.ones(network.input_shape, np.float32)
        factors[:] = recipe.scale or 1
        parts.append(_array("float", "factors", _floats(factors)))
        size += factors.nbytes
    return "\n\n".join(parts), size


def _operation(row: NDArray[np.int64]) -> str:
    if np.abs(row).max() > np.iinfo(np.int32).max:
        raise SnnRlError("there is no export to C: the network has more than 2^31 weights")
    members = []
    for field, name in FIELDS.items():
        value = int(row[field])
        if field == plan.KIND:
            members.append(f".{name} = {KINDS[value]}")
        elif field in (plan.SOURCE_IN, plan.SECOND_IN):
            members.append(f".{name} = {PLACES[value]}")
        elif value:
            members.append(f".{name} = {value}")
    return "    {" + ", ".join(members) + "}"


def _floats(values: NDArray[np.float32]) -> list[str]:
    """Exactly, as hexadecimal numbers."""
    return [_hexadecimal(value) for value in values.ravel().tolist()]


def _hexadecimal(value: float) -> str:
    if value == 0:
        return "-0.0f" if np.signbit(value) else "0.0f"
    mantissa, _, power = value.hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{power}f"


def _array(kind: str, name: str, values: Iterable[str]) -> str:
    lines, line = [], ""
    for value in values:
        if len(line) + len(value) >= WIDTH:
            lines.append(line)
            line = ""
        line += f"{value},"
    return f"static const {kind} {name}[] = {{\n" + "\n".join([*lines, line]) + "\n};"


def _trace(network: Plan, trace: Trace, common: dict[str, str]) -> str:
    membranes = np.zeros(network.neurons, np.float32)
    for layer in network.layers:
        if (kept := trace.state.get(f"{MEMBRANE}{layer.name}")) is not None:
            membranes[layer.neurons] = kept.ravel()[layer.order]
    frames = _changes(trace.frames) if network.pixels else _bits(trace.frames)
    return "\n\n".join(
        [
            f"/* {common['title']}: frames of real play and what the agent made of them, as bits.\n"
            " * Of a frame of pixels: how many changed; of each, position * 256 + new value. */",
            f"#define TRACE_LENGTH {len(trace.frames)}",
            _array("uint8_t", "trace_starts", map(str, trace.starts.astype(int).tolist())),
            _array("uint32_t", "trace_frames", frames),
            _array("uint32_t", "trace_q", _bits(trace.q)),
            _array("uint32_t", "trace_membranes", _bits(membranes)),
            "",
        ]
    )


def _bits(values: NDArray[np.float32]) -> list[str]:
    return [f"{n:#x}" for n in np.ascontiguousarray(values, np.float32).view(np.uint32).ravel()]


def _changes(frames: NDArray[np.uint8]) -> list[str]:
    """Pixels that differ from the frame before; the first follows a frame of zeros."""
    flat = frames.reshape(len(frames), -1)
    before = np.zeros_like(flat[0])
    words: list[str] = []
    for frame in flat:
        at = np.flatnonzero(frame != before)
        words.append(str(len(at)))
        words += map(str, (at * 256 + frame[at]).tolist())
        before = frame
    return words
