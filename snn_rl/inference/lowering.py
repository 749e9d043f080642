"""From a saved network, its card and weights, to the plan that the engine runs.

What the engine cannot run bit for bit as torch does is refused by name: then torch has to run it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.core import operations
from snn_rl.core.graph import Node, node_from_dict
from snn_rl.errors import CheckpointError, EngineError, SnnRlError
from snn_rl.inference import plan
from snn_rl.inference.parts import Parts, Value
from snn_rl.inference.plan import Plan
from snn_rl.inference.positions import channels_last, position_table, segment_table
from snn_rl.inference.reader import Weights
from snn_rl.inference.rows import Rows, cannot, most_sums, rows_of

THRESHOLD_FLOOR = 1e-3


def lower(card: Mapping[str, Any], weights: Weights) -> Plan:
    """The plan of a saved spiking network.

    Args:
        card, weights: as `snn_rl.inference.reader.read` gives them.

    Raises:
        EngineError: names the layer that the engine cannot run.
        CheckpointError: graph and weights do not fit together.
    """
    try:
        return _Lowering(_nodes(card["graph"]), card["grid"], weights).plan()
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise CheckpointError(f"the layer graph is damaged ({error!r:.100})") from error
    except ValueError as error:
        if isinstance(error, EngineError | CheckpointError):
            raise
        raise CheckpointError(f"the layer graph is damaged ({error!s:.100})") from error


def _nodes(graph: list[dict[str, Any]]) -> list[Node]:
    nodes = []
    for found in graph:
        try:
            nodes.append(node_from_dict(found))
        except SnnRlError as error:  # an option that is not known may change what it does
            raise EngineError(
                f"the event-driven engine cannot run layer {found.get('name')!r}: {error}"
            ) from None
    return nodes


class _Lowering:
    """Walks a graph once; every operation becomes rows of the program and a value."""

    def __init__(self, nodes: list[Node], grid: Mapping[str, Any], weights: Weights) -> None:
        self.nodes, self.grid, self.weights = nodes, grid, weights
        self.parts = Parts()
        self.values: dict[str, Value] = {}
        self.most_timesteps = 1

    def plan(self) -> Plan:
        for node in self.nodes:
            inputs = [self.values[name] for name in node.inputs]
            self.values[node.name] = lowered(node.operation, node, inputs, self)
        last, seen = self.nodes[-1], self.nodes[0].operation
        if not isinstance(last.operation, operations.Linear) or not self.parts.layers:
            raise EngineError(
                f"the event-driven engine cannot run this network: its output {last.name!r} is "
                "no linear layer behind spikes"
            )
        if not isinstance(seen, operations.Input):
            raise CheckpointError("the layer graph starts with no input")
        parts = self.parts
        return Plan(
            program=np.array(parts.program, np.int64),
            weights=_joined(parts.weights, np.float32),
            whole=_joined(parts.whole, np.int16),
            tables=_joined(parts.tables, np.uint32),
            layers=tuple(parts.layers),
            input_shape=seen.frame,
            pixels=seen.pixels,
            stack=seen.stack,
            offset=seen.offset,
            sums=_joined(parts.sums, np.float32),
            floats=parts.floats,
            accumulators=parts.accumulators,
            spikes=parts.spikes,
            resting=_joined(parts.resting, np.float32),
            outputs=self.values[last.name].size,
            most_timesteps=self.most_timesteps,
        )

    def weighted(self, node: Node, x: Value) -> Value:
        """A convolution, linear layer or sum-pool."""
        rows = rows_of(node.operation, node, x, self.weights, self.grid)
        linear = isinstance(node.operation, operations.Linear)
        last = node is self.nodes[-1] and linear
        if last and x.static:
            raise EngineError(cannot(node, "a read-out of something else than spikes"))
        if x.place == plan.IN_OBSERVED:
            if not linear:
                what = f"{node.operation.kind!r} of real-valued observations"
                raise EngineError(cannot(node, what))
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
        pooled = isinstance(node.operation, operations.SumPool2d)
        largest = x.largest * rows.window.area if pooled else np.inf
        unit = x.unit if pooled else 1.0
        return Value(place, target, shape, channels_last(shape), x.static, largest, unit)

    def _stored(self, node: Node, x: Value, rows: Rows) -> dict[int, int]:
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

    def spikes(self, node: Node, x: Value, start: float) -> Value:
        """A layer of LIF neurons, whose membranes begin at `start` thresholds."""
        name, shape = node.name, x.shape
        x = self._as_floats(node, x)
        threshold, leak = (
            np.broadcast_to(self.weights[f"{name}.{kind}"], shape).ravel()[x.order]
            for kind in ("threshold", "leak")
        )
        threshold = np.maximum(threshold, np.float32(THRESHOLD_FLOOR))
        first = sum(layer.size for layer in self.parts.layers)
        target = self.parts.spike_bytes(x.size)
        fields = {
            plan.SOURCE: x.offset,
            plan.SOURCE_IN: x.place,
            plan.INPUTS: x.size,
            plan.TARGET: target,
            plan.OUTPUTS: x.size,
            plan.BIAS: self.parts.store(threshold),
            plan.SECOND: self.parts.store(np.clip(leak, 0, 1)),
            plan.MEMBRANE: first,
        }
        self.parts.operation(plan.LIF, fields)
        self.parts.layers.append(plan.Layer(name, shape, first, x.order))
        self.parts.resting.append(np.float32(start) * threshold)
        return Value(plan.IN_SPIKES, target, shape, x.order, False, 1.0, 1.0)

    def _as_floats(self, node: Node, x: Value) -> Value:
        return self.scaled(node, x, np.ones(1)) if x.place == plan.IN_SPIKES else _inner(node, x)

    def scaled(self, node: Node, x: Value, factor: NDArray[Any]) -> Value:
        """One factor times a value."""
        x = _inner(node, x)
        target = self.parts.scratch(x.size)
        fields = {
            plan.STATIC: x.static, plan.SOURCE: x.offset, plan.SOURCE_IN: x.place,
            plan.INPUTS: x.size, plan.TARGET: target, plan.OUTPUTS: x.size,
            plan.WEIGHTS: self.parts.store(factor),
        }  # fmt: skip
        self.parts.operation(plan.SCALE, fields)
        return Value(plan.IN_FLOATS, target, x.shape, x.order, x.static, np.inf, 1.0)

    def added(self, node: Node, a: Value, b: Value) -> Value:
        """The sum of two values."""
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


@singledispatch
def lowered(
    operation: operations.Operation, node: Node, inputs: list[Value], into: _Lowering
) -> Value:
    """Append what runs an operation to the program; its value.

    Raises:
        EngineError: the engine lacks it.
    """
    raise EngineError(cannot(node, f"operation {operation.kind!r}"))


@lowered.register
def _(operation: operations.Input, node: Node, inputs: list[Value], into: _Lowering) -> Value:
    shape, (largest, unit) = operation.shape(), operation.values()
    place = plan.IN_PIXELS if operation.pixels else plan.IN_OBSERVED
    return Value(place, 0, shape, np.arange(math.prod(shape)), True, largest, unit)


@lowered.register(operations.Linear)
@lowered.register(operations.Conv2d)
@lowered.register(operations.SumPool2d)
def _(operation: operations.Operation, node: Node, inputs: list[Value], into: _Lowering) -> Value:
    return into.weighted(node, inputs[0])


@lowered.register
def _(operation: operations.LIFNeurons, node: Node, inputs: list[Value], into: _Lowering) -> Value:
    operation.shape(inputs[0].shape)
    return into.spikes(node, inputs[0], operation.start)


@lowered.register
def _(operation: operations.Scale, node: Node, inputs: list[Value], into: _Lowering) -> Value:
    if operation.factors:
        raise EngineError(cannot(node, "option 'factors' of 'scale'"))
    return into.scaled(node, inputs[0], into.weights[f"{node.name}.weight"].reshape(1))


@lowered.register(operations.Add)
def _(operation: operations.Operation, node: Node, inputs: list[Value], into: _Lowering) -> Value:
    return into.added(node, *inputs)


@lowered.register(operations.Flatten)
def _(operation: operations.Operation, node: Node, inputs: list[Value], into: _Lowering) -> Value:
    return replace(inputs[0], shape=operation.shape(inputs[0].shape))


@lowered.register(operations.Dropout)
def _(operation: operations.Operation, node: Node, inputs: list[Value], into: _Lowering) -> Value:
    return inputs[0]  # it does nothing once a network is trained


def _inner(node: Node, x: Value) -> Value:
    """`x`, unless it is the observation itself."""
    if x.place in (plan.IN_PIXELS, plan.IN_OBSERVED):
        raise EngineError(cannot(node, f"{node.operation.kind!r} of the observation itself"))
    return x


def _joined(arrays: list[Any], dtype: Any) -> NDArray[Any]:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)
