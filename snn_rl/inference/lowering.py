"""From a saved network, its card and weights, to the plan that the engine runs.

What the engine cannot run bit for bit as torch does is refused by name: then torch has to run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.errors import CheckpointError, EngineError
from snn_rl.inference import plan
from snn_rl.inference.parts import Parts, Value
from snn_rl.inference.plan import Plan
from snn_rl.inference.positions import channels_last, position_table, segment_table
from snn_rl.inference.reader import Weights
from snn_rl.inference.rows import Rows, cannot, most_sums, rows_of

PIXEL_UNIT = 2.0**-8
THRESHOLD_FLOOR = 1e-3
KNOWN_OPTIONS = {
    "input": {"shape", "pixels", "stack", "offset"},
    "linear": {"in_features", "out_features", "bias"},
    "conv": {
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
        "bias",
    },
    "lif": {"shape", "threshold", "leak"},
    "sumpool": {"kernel_size", "stride", "padding", "ceil_mode"},
    "flatten": set(),
    "dropout": {"p", "channels"},
    "add": set(),
    "scale": set(),
}  # fmt: skip
"""Options by operation; an option that is not known here may change what the operation does."""


def lower(card: Mapping[str, Any], weights: Weights) -> Plan:
    """The plan of a saved spiking network.

    Args:
        card, weights: as `snn_rl.inference.reader.read` gives them.

    Raises:
        EngineError: names the layer that the engine cannot run.
        CheckpointError: graph and weights do not fit together.
    """
    try:
        return _Lowering(card, weights).plan()
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise CheckpointError(f"the layer graph is damaged ({error!r:.100})") from error
    except ValueError as error:
        if isinstance(error, EngineError | CheckpointError):
            raise
        raise CheckpointError(f"the layer graph is damaged ({error!s:.100})") from error


class _Lowering:
    """Walks a graph once; every operation becomes rows of the program and a value."""

    def __init__(self, card: Mapping[str, Any], weights: Weights) -> None:
        self.nodes, self.grid, self.weights = card["graph"], card["grid"], weights
        self.parts = Parts()
        self.values: dict[str, Value] = {}
        self.most_timesteps = 1

    def plan(self) -> Plan:
        for node in self.nodes:
            self._check_options(node)
            self.values[node["name"]] = self._lower(node)
        last, options = self.nodes[-1], self.nodes[0]["options"]
        if last["op"] != "linear" or not self.parts.layers:
            raise EngineError(
                f"the event-driven engine cannot run this network: its output {last['name']!r} is "
                "no linear layer behind spikes"
            )
        parts = self.parts
        return Plan(
            program=np.array(parts.program, np.int64),
            weights=_joined(parts.weights, np.float32),
            whole=_joined(parts.whole, np.int16),
            tables=_joined(parts.tables, np.uint32),
            layers=tuple(parts.layers),
            input_shape=tuple(int(n) for n in options["shape"]),
            pixels=bool(options["pixels"]),
            stack=int(options["stack"]),
            offset=int(options.get("offset", 0)),
            sums=_joined(parts.sums, np.float32),
            floats=parts.floats,
            accumulators=parts.accumulators,
            spikes=parts.spikes,
            outputs=self.values[last["name"]].size,
            most_timesteps=self.most_timesteps,
        )

    def _check_options(self, node: dict[str, Any]) -> None:
        op = node["op"]
        if op not in KNOWN_OPTIONS:
            raise EngineError(cannot(node, f"operation {op!r}"))
        unknown = set(node["options"]) - KNOWN_OPTIONS[op]
        if unknown:
            raise EngineError(cannot(node, f"option {min(unknown)!r} of {op!r}"))

    def _lower(self, node: dict[str, Any]) -> Value:
        inputs = [self.values[name] for name in node["inputs"]]
        match node["op"]:
            case "input":
                return _input(node)
            case "linear" | "conv" | "sumpool":
                return self._weighted(node, inputs[0])
            case "lif":
                return self._spikes(node, inputs[0])
            case "scale":
                factor = self.weights[f"{node['name']}.weight"].reshape(1)
                return self._scaled(node, inputs[0], factor)
            case "add":
                return self._added(node, inputs[0], inputs[1])
            case "flatten":
                x = inputs[0]
                return Value(
                    x.place, x.offset, (x.size,), x.order, x.static, x.largest, x.unit
                )  # fmt: skip
            case _:  # dropout does nothing once a network is trained
                return inputs[0]

    def _weighted(self, node: dict[str, Any], x: Value) -> Value:
        rows = rows_of(node, x, self.weights, self.grid)
        last = node is self.nodes[-1] and node["op"] == "linear"
        if last and x.static:
            raise EngineError(cannot(node, "a read-out of something else than spikes"))
        if x.place == plan.IN_OBSERVED:
            if node["op"] != "linear":
                raise EngineError(cannot(node, f"{node['op']!r} of real-valued observations"))
        else:
            most = most_sums(node, x, rows)
            self.most_timesteps = most if last else self.most_timesteps
        size, shape = rows.outputs, rows.shape
        fields = {
            plan.STATIC: x.static,
            plan.SOURCE: x.offset,
            plan.SOURCE_IN: x.place,
            plan.INPUTS: x.size,
            plan.OUTPUTS: size,
            plan.BIAS: self.parts.store(rows.bias),
            plan.TABLE: self.parts.table_end,
            plan.CHANNELS: rows.groups * rows.per_group,
            plan.KERNEL: rows.window.area * rows.row,
            plan.ROW: rows.row,
            plan.PER_GROUP: rows.per_group,
            plan.OUT_CHANNELS: rows.channels,
            **self._stored(node, x, rows),
        }
        table = position_table(rows.window, rows.row, rows.channels, self.parts.table_end)
        self.parts.tables.append(table)
        if x.place == plan.IN_SPIKES and rows.groups == 1:
            fields |= self._gathered(x, rows, fields[plan.WEIGHTS])
        if x.place == plan.IN_PIXELS:
            tiled = np.tile(rows.bias, size // rows.channels)
            kind, place, target = plan.PIXELS, plan.IN_SUMS, self.parts.frame_sums(tiled)
        else:
            kind = plan.READOUT if last else plan.SCATTER
            kind = plan.DENSE if x.place == plan.IN_OBSERVED else kind
            place, target = plan.IN_FLOATS, self.parts.scratch(size)
        self.parts.operation(kind, fields | {plan.TARGET: target})
        pooled = node["op"] == "sumpool"
        largest = x.largest * rows.window.area if pooled else np.inf
        unit = x.unit if pooled else 1.0
        return Value(place, target, shape, channels_last(shape), x.static, largest, unit)

    def _stored(self, node: dict[str, Any], x: Value, rows: Rows) -> dict[int, int]:
        """Keep weights: those that spikes add as whole numbers, with their unit and sums."""
        if x.place != plan.IN_SPIKES:
            return {plan.WEIGHTS: self.parts.store(rows.weight)}
        whole = rows.weight.astype(np.float64) * rows.scale
        if np.abs(whole).max(initial=0) > np.iinfo(np.int16).max:
            raise EngineError(cannot(node, "weights beyond 16 bits"))
        return {
            plan.WEIGHTS: self.parts.store_whole(whole.astype(np.int16)),
            plan.SECOND: self.parts.store(np.array([1 / rows.scale])),
            plan.ACCUMULATOR: self.parts.accumulator(rows.outputs),
        }

    def _gathered(self, x: Value, rows: Rows, stored: int) -> dict[int, int]:
        """What it takes to sum up, for each output position, the spikes that it sees."""
        first, window = self.parts.table_end, rows.window
        self.parts.tables.append(segment_table(window, rows.per_group, first))
        if window.area > 1:
            lying = rows.weight[0][:, :, np.argsort(window.columns)].transpose(1, 2, 0, 3)
            stored = self.parts.store_whole((lying * rows.scale).astype(np.int16))
        return {
            plan.SEGMENTS: first,
            plan.GATHERED: stored,
            plan.POSITIONS: x.size // rows.per_group,
        }

    def _spikes(self, node: dict[str, Any], x: Value) -> Value:
        name, shape = node["name"], tuple(int(n) for n in node["options"]["shape"])
        if shape != x.shape:
            raise CheckpointError(f"layer {name!r} does not fit its input")
        x = self._as_floats(node, x)
        threshold, leak = (
            np.broadcast_to(self.weights[f"{name}.{kind}"], shape).ravel()[x.order]
            for kind in ("threshold", "leak")
        )
        first = sum(layer.size for layer in self.parts.layers)
        target = self.parts.spike_bytes(x.size)
        fields = {
            plan.SOURCE: x.offset,
            plan.SOURCE_IN: x.place,
            plan.INPUTS: x.size,
            plan.TARGET: target,
            plan.OUTPUTS: x.size,
            plan.BIAS: self.parts.store(np.maximum(threshold, np.float32(THRESHOLD_FLOOR))),
            plan.SECOND: self.parts.store(np.clip(leak, 0, 1)),
            plan.MEMBRANE: first,
        }
        self.parts.operation(plan.LIF, fields)
        self.parts.layers.append(plan.Layer(name, shape, first, x.order))
        return Value(plan.IN_SPIKES, target, shape, x.order, False, 1.0, 1.0)

    def _as_floats(self, node: dict[str, Any], x: Value) -> Value:
        return self._scaled(node, x, np.ones(1)) if x.place == plan.IN_SPIKES else _inner(node, x)

    def _scaled(self, node: dict[str, Any], x: Value, factor: NDArray[Any]) -> Value:
        x = _inner(node, x)
        target = self.parts.scratch(x.size)
        fields = {
            plan.STATIC: x.static, plan.SOURCE: x.offset, plan.SOURCE_IN: x.place,
            plan.INPUTS: x.size, plan.TARGET: target, plan.OUTPUTS: x.size,
            plan.WEIGHTS: self.parts.store(factor),
        }  # fmt: skip
        self.parts.operation(plan.SCALE, fields)
        return Value(plan.IN_FLOATS, target, x.shape, x.order, x.static, np.inf, 1.0)

    def _added(self, node: dict[str, Any], a: Value, b: Value) -> Value:
        if a.shape != b.shape or not np.array_equal(a.order, b.order):
            raise EngineError(cannot(node, "an addition of values that lie in different orders"))
        a, b = self._as_floats(node, a), self._as_floats(node, b)
        target, static = self.parts.scratch(a.size), a.static and b.static
        fields = {
            plan.STATIC: static, plan.SOURCE: a.offset, plan.SOURCE_IN: a.place,
            plan.INPUTS: a.size, plan.TARGET: target, plan.OUTPUTS: a.size,
            plan.SECOND: b.offset, plan.SECOND_IN: b.place,
        }  # fmt: skip
        self.parts.operation(plan.ADD, fields)
        return Value(plan.IN_FLOATS, target, a.shape, a.order, static, np.inf, 1.0)


def _input(node: dict[str, Any]) -> Value:
    options = node["options"]
    shape = tuple(int(n) for n in options["shape"])
    shape = (int(options["stack"]) * shape[0], *shape[1:])
    order = np.arange(int(np.prod(shape)))
    if options["pixels"]:
        return Value(plan.IN_PIXELS, 0, shape, order, True, 255 * PIXEL_UNIT, PIXEL_UNIT)
    return Value(plan.IN_OBSERVED, 0, shape, order, True, np.inf, 1.0)


def _inner(node: dict[str, Any], x: Value) -> Value:
    """`x`, unless it is the observation itself."""
    if x.place in (plan.IN_PIXELS, plan.IN_OBSERVED):
        raise EngineError(cannot(node, f"{node['op']!r} of the observation itself"))
    return x


def _joined(arrays: list[Any], dtype: Any) -> NDArray[Any]:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)
