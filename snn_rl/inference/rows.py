"""The weights of one layer as rows that its inputs add, and whether their sums are exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.core import operations
from snn_rl.core.graph import Node
from snn_rl.errors import CheckpointError, EngineError
from snn_rl.inference.parts import Value
from snn_rl.inference.plan import Array
from snn_rl.inference.positions import POINT, Window
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


@singledispatch
def rows_of(
    operation: operations.Operation, node: Node, x: Value, weights: Weights, grid: Mapping[str, Any]
) -> Rows:
    """Rows of a node that reads `x`.

    Raises:
        EngineError: an operation without rows, or on a shape that the engine lacks.
        SnnRlError: operation, weights and `x` do not fit together.
    """
    raise EngineError(cannot(node, f"rows of {operation.kind!r}"))


@rows_of.register
def _(
    operation: operations.SumPool2d, node: Node, x: Value, weights: Weights, grid: Mapping[str, Any]
) -> Rows:
    shape, kernel = operation.shape(x.shape), operation.kernel_size
    window = Window(_plane(x.shape), _plane(shape), kernel, operation.stride or kernel)
    ones = np.ones((shape[0], 1, *kernel, 1), np.float32)
    return Rows(window, ones, np.zeros(shape[0], np.float32), shape, 1.0)


@rows_of.register
def _(
    operation: operations.Linear, node: Node, x: Value, weights: Weights, grid: Mapping[str, Any]
) -> Rows:
    if len(x.shape) != 1:
        raise EngineError(cannot(node, f"a linear layer on values of shape {x.shape}"))
    shape = operation.shape(x.shape)
    columns = _weight(node.name, weights, (*shape, operation.in_features))[:, x.order].T
    bias = _bias(node.name, operation.bias, weights, shape[0])
    return Rows(POINT, columns[None, :, None, None], bias, shape, 2.0 ** int(grid[node.name]))


@rows_of.register
def _(
    operation: operations.Conv2d, node: Node, x: Value, weights: Weights, grid: Mapping[str, Any]
) -> Rows:
    shape, kernel, groups = operation.shape(x.shape), operation.kernel_size, operation.groups
    window = Window(
        _plane(x.shape), _plane(shape), kernel,
        operation.stride, operation.padding, operation.dilation,
    )  # fmt: skip
    stored = (shape[0], operation.in_channels // groups, *kernel)
    weight = _weight(node.name, weights, stored)
    rows = weight.reshape(groups, -1, *stored[1:]).transpose(0, 2, 3, 4, 1)
    bias, scale = _bias(node.name, operation.bias, weights, shape[0]), 2.0 ** int(grid[node.name])
    return Rows(window, rows[:, :, :, window.columns], bias, shape, scale)


def most_sums(node: Node, x: Value, rows: Rows) -> int:
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


def cannot(node: Node, what: str) -> str:
    """The sentence that refuses a node."""
    return f"the event-driven engine cannot run layer {node.name!r}: it lacks {what}"


def _plane(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of [channels, height, width]."""
    return shape[1], shape[2]


def _weight(name: str, weights: Weights, shape: tuple[int, ...]) -> NDArray[Any]:
    weight = weights[f"{name}.weight"]
    if weight.shape != shape:
        raise CheckpointError(f"layer {name!r} has weights of shape {weight.shape}")
    return weight


def _bias(name: str, present: bool, weights: Weights, channels: int) -> NDArray[Any]:
    if not present:
        return np.zeros(channels, np.float32)
    bias = weights[f"{name}.bias"]
    if bias.shape != (channels,):
        raise CheckpointError(f"layer {name!r} has biases of shape {bias.shape}")
    return bias
