"""The weights of one layer as rows that its inputs add, and whether their sums are exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.errors import CheckpointError, EngineError
from snn_rl.inference.parts import Value
from snn_rl.inference.plan import Array
from snn_rl.inference.positions import POINT, Window, window_of
from snn_rl.inference.reader import Weights

EXACT = 2.0**24
"""float32 holds all whole numbers below."""


@dataclass(frozen=True)
class Rows:
    """A convolution, linear layer or sum-pool.

    Attributes:
        window: how it slides over its input.
        weight: [group, in channel of the group, ky, kx, out channel of the group], the columns kx
            in the window's order.
        bias: [out channel].
        shape: of its output, channels first.
        scale: times this, weights and biases are whole numbers.
    """

    window: Window
    weight: Array
    bias: Array
    shape: tuple[int, ...]
    scale: float

    @property
    def groups(self) -> int:
        """Groups of channels."""
        return int(self.weight.shape[0])

    @property
    def per_group(self) -> int:
        """Input channels of a group."""
        return int(self.weight.shape[1])

    @property
    def row(self) -> int:
        """Output channels of a group."""
        return int(self.weight.shape[4])

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.groups * self.row

    @property
    def outputs(self) -> int:
        """Values of the output."""
        return math.prod(self.shape)


def rows_of(node: Mapping[str, Any], x: Value, weights: Weights, grid: Mapping[str, Any]) -> Rows:
    """Rows of a node that reads `x`.

    Raises:
        EngineError: a shape that the engine lacks. CheckpointError: weights of another shape.
    """
    name, options = node["name"], node["options"]
    if node["op"] == "sumpool":
        window = window_of(options, _image(node, x))
        ones = np.ones((x.shape[0], 1, *window.kernel, 1), np.float32)
        bias = np.zeros(x.shape[0], np.float32)
        return Rows(window, ones, bias, (x.shape[0], *window.out), 1.0)
    scale = 2.0 ** int(grid[name])
    if node["op"] == "linear":
        features, outputs = int(options["in_features"]), int(options["out_features"])
        if x.shape != (features,):
            raise EngineError(cannot(node, f"a linear layer on values of shape {x.shape}"))
        columns = _weight(name, weights, (outputs, features))[:, x.order].T
        bias = _bias(name, options, weights, outputs)
        return Rows(POINT, columns[None, :, None, None], bias, (outputs,), scale)
    window = window_of(options, _image(node, x))
    inputs, channels = int(options["in_channels"]), int(options["out_channels"])
    groups = int(options.get("groups", 1))
    if inputs != x.shape[0]:
        raise CheckpointError(f"layer {name!r} does not fit its input")
    weight = _weight(name, weights, (channels, inputs // groups, *window.kernel))
    rows = weight.reshape(groups, channels // groups, *weight.shape[1:]).transpose(0, 2, 3, 4, 1)
    bias = _bias(name, options, weights, channels)
    return Rows(window, rows[:, :, :, window.columns], bias, (channels, *window.out), scale)


def most_sums(node: Mapping[str, Any], x: Value, rows: Rows) -> int:
    """How many outputs can be added up, at most, and every sum on the way is exact in float32.

    Raises:
        EngineError: not even one.
    """
    if not np.isfinite(x.largest):
        raise EngineError(cannot(node, "weights behind values without a grid"))
    w = np.abs(rows.weight.astype(np.float64)) * rows.scale
    b = np.abs(rows.bias.astype(np.float64)) * rows.scale
    bound = float((w.sum((1, 2, 3)).ravel() * x.largest + b).max())
    most = math.ceil(EXACT * x.unit / max(bound, x.unit)) - 1
    if most < 1 or (w % 1).any() or (b % 1).any():
        raise EngineError(cannot(node, "weights that lie on no grid"))
    return most


def cannot(node: Mapping[str, Any], what: str) -> str:
    """The sentence that refuses a node."""
    return f"the event-driven engine cannot run layer {node['name']!r}: it lacks {what}"


def _image(node: Mapping[str, Any], x: Value) -> tuple[int, ...]:
    if len(x.shape) != 3:
        raise EngineError(cannot(node, f"{node['op']!r} on values of shape {x.shape}"))
    return x.shape[1:]


def _weight(name: str, weights: Weights, shape: tuple[int, ...]) -> NDArray[Any]:
    weight = weights[f"{name}.weight"]
    if weight.shape != shape:
        raise CheckpointError(f"layer {name!r} has weights of shape {weight.shape}")
    return weight


def _bias(name: str, options: Mapping[str, Any], weights: Weights, channels: int) -> NDArray[Any]:
    if not options.get("bias", True):
        return np.zeros(channels, np.float32)
    bias = weights[f"{name}.bias"]
    if bias.shape != (channels,):
        raise CheckpointError(f"layer {name!r} has biases of shape {bias.shape}")
    return bias
