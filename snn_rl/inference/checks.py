"""What the files of a saved network must hold before anything is made of them.

Types, ranges and sizes come first, so that no damaged number costs memory or time; then the values
are bounded, so that none can overflow. All errors are `CheckpointError` or `ValueError`, one
sentence each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.core import operations
from snn_rl.core.graph import Node, check, node_from_dict, ranges
from snn_rl.core.operations import Granularity, Shape

MOST_TIMESTEPS = 1024
"""Spiking steps per frame of any agent; the paper needs 5 at most."""
LARGEST_CARD = 2**24
"""Bytes of agent.json."""
MOST_VALUES = 2**26
"""Values at the outputs of all layers together, for one sample."""
LARGEST_VALUE = 1e30
"""No value of a network may exceed it: membranes that add it up stay finite."""
OBSERVED = 1e6
"""Real-valued observations are taken to stay below this."""
EXACT = 2.0**24
EXPONENTS = range(-100, 101)

Weights = Mapping[str, NDArray[Any]]


def check_graph(card: Mapping[str, Any]) -> tuple[list[Node], dict[str, int]]:
    """The layer graph and the grid's exponents of a card.

    A network that was saved off the grid has none.

    Raises:
        ValueError: damaged, or larger than any network is.
    """
    graph, grid = card.get("graph"), card.get("grid")
    if not isinstance(graph, list) or not isinstance(grid, dict):
        raise ValueError("it holds a damaged node: graph and grid must be a list and a mapping")
    nodes = [node_from_dict(node) for node in graph]
    shapes = check(nodes)
    if sum(math.prod(shape) for shape in shapes.values()) > MOST_VALUES:
        raise ValueError(f"its layers hold more than {MOST_VALUES} values")
    wanted = {node.name for node in nodes if _on_grid(node)}
    if (grid and grid.keys() != wanted) or not all(
        _whole(k) and k in EXPONENTS for k in grid.values()
    ):
        raise ValueError("its grid holds something else than an exponent for each weighted layer")
    return nodes, grid


def parameter_shapes(nodes: Sequence[Node], *, on_grid: bool) -> dict[str, tuple[Shape, str]]:
    """Shape and NumPy type of every stored array of a network by "layer.parameter"."""
    shapes, found = check(nodes), {}
    for node in nodes:
        operation = node.operation
        for name, shape in _parameters(operation, shapes[node.name]).items():
            kind = "int16" if on_grid and _on_grid(node) else "float32"
            if name == "num_batches_tracked":
                kind = "int64"
            found[f"{node.name}.{name}"] = (shape, kind)
    return found


def check_size(size: int, wanted: Mapping[str, tuple[Shape, str]]) -> None:
    """Refuse a file of `size` bytes that is larger than those parameters can need.

    Raises:
        ValueError: it is.
    """
    needed = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in wanted.values())
    if size > needed + LARGEST_CARD:
        raise ValueError(f"the file has {size} bytes, where the layers need {needed}")


def check_header(
    stored: Mapping[str, tuple[Shape, str]], wanted: Mapping[str, tuple[Shape, str]]
) -> None:
    """Compare what a file of weights says that it holds with what the graph needs.

    Raises:
        ValueError: they differ.
    """
    if odd := sorted(wanted.keys() ^ stored.keys()):
        raise ValueError(f"{odd[0]!r:.60} is missing or too much")
    for name, (shape, kind) in wanted.items():
        if stored[name] != (shape, kind):
            has, of = stored[name]
            raise ValueError(f"{name!r:.60} is {of} of shape {has}, not {kind} of shape {shape}")


def check_values(
    nodes: Sequence[Node], grid: Mapping[str, int], weights: Weights, timesteps: int
) -> None:
    """Refuse values that are not finite, leave the grid on which sums are exact, or can overflow.

    Args:
        weights: float32, off the grid.

    Raises:
        ValueError: names the layer.
    """
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise ValueError(f"its weights are not finite ({name!r:.60})")
    spiking = any(isinstance(node.operation, operations.Neurons) for node in nodes)
    entering = ranges(nodes)
    for node in nodes:
        if node.name in grid and spiking and math.isfinite(entering[node.inputs[0]].largest):
            read_out = node is nodes[-1] and isinstance(node.operation, operations.Linear)
            largest, unit = entering[node.inputs[0]]
            sums = _sums(node.name, weights, largest) * 2.0 ** grid[node.name]
            if sums * (timesteps if read_out else 1) >= EXACT * unit:
                raise ValueError(f"the weights of {node.name!r:.60} leave the grid of exact sums")
    bounds: dict[str, float] = {}
    for node in nodes:
        with np.errstate(all="ignore"):
            bound = _bound(node, [bounds[name] for name in node.inputs], weights)
        if not bound < LARGEST_VALUE:
            raise ValueError(f"the values of {node.name!r:.60} can overflow")
        bounds[node.name] = bound


def _bound(node: Node, entering: Sequence[float], weights: Weights) -> float:
    """Largest magnitude behind a node."""
    operation = node.operation
    match operation:
        case operations.Input():
            return 1.0 if operation.pixels else OBSERVED
        case operations.Neurons():
            return 1.0
        case operations.Linear() | operations.Conv2d() | operations.Scale():
            return _sums(node.name, weights, entering[0])
        case operations.BatchNorm():
            got = {k: np.abs(weights[f"{node.name}.{k}"].astype(np.float64)) for k in _STATISTICS}
            spread = np.sqrt(weights[f"{node.name}.running_var"].astype(np.float64) + operation.eps)
            scale = np.abs(weights.get(f"{node.name}.weight", np.ones(1))) / spread
            shift = np.abs(weights.get(f"{node.name}.bias", np.zeros(1)))
            return float((scale * (entering[0] + got["running_mean"]) + shift).max())
        case operations.SumPool2d():
            return entering[0] * operation.area
        case _:
            return sum(entering)


_STATISTICS = ("running_mean", "running_var")


def _sums(name: str, weights: Weights, largest: float) -> float:
    """Largest sum of weights times inputs, and bias, of any output of a layer."""
    weight = np.abs(weights[f"{name}.weight"].astype(np.float64))
    bias = np.abs(weights.get(f"{name}.bias", np.zeros(1)).astype(np.float64))
    return float((weight.reshape(len(weight), -1).sum(1) * largest + bias).max())


def _on_grid(node: Node) -> bool:
    return node.operation.weighted or isinstance(node.operation, operations.Scale)


def _parameters(operation: operations.Operation, shape: Shape) -> dict[str, Shape]:
    match operation:
        case operations.Linear():
            found = {"weight": (operation.out_features, operation.in_features)}
            return found | ({"bias": (operation.out_features,)} if operation.bias else {})
        case operations.Conv2d():
            within = operation.in_channels // operation.groups
            kernel = (operation.out_channels, within, *operation.kernel_size)
            bias = {"bias": (operation.out_channels,)} if operation.bias else {}
            return {"weight": kernel, **bias}
        case operations.BatchNorm():
            per = (operation.num_features,)
            affine = {"weight": per, "bias": per} if operation.affine else {}
            return affine | {name: per for name in _STATISTICS} | {"num_batches_tracked": ()}
        case operations.Neurons():
            leak = _granular(shape, operation.leak)
            adapts = isinstance(operation, operations.AdaptiveNeurons)
            own = {"strength": leak, "decay": leak} if adapts else {}
            return {"threshold": _granular(shape, operation.threshold), "leak": leak, **own}
        case operations.Scale():
            return {"weight": (1,)}
        case _:
            return {}


def _granular(shape: Shape, granularity: Granularity) -> Shape:
    if granularity == "neuron":
        return shape
    return (shape[0] if granularity == "channel" else 1, *(1 for _ in shape[1:]))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
