"""The layer graph: operations in order of execution, as plain data that fits in a JSON file.

What is read from a file is validated by type and size. Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, get_args, get_type_hints

from snn_rl.core.operations import OPERATIONS, Granularity, Input, Operation, Pair, Range, Shape
from snn_rl.errors import SnnRlError

LARGEST = 2**24
"""No size in a graph exceeds this; beyond it lies damage, not a network."""


@dataclass(frozen=True)
class Node:
    """An operation in a graph: its unique name and the names of the values that it reads."""

    name: str
    operation: Operation
    inputs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `node_from_dict` reverses it."""
        return {
            "name": self.name,
            "op": self.operation.kind,
            "inputs": list(self.inputs),
            "options": self.operation.options(),
        }


def node_from_dict(data: Any) -> Node:
    """Node from its JSON form. Raises SnnRlError if it is not one."""
    try:
        name, inputs = str(data["name"]), tuple(str(name) for name in data["inputs"])
        kind, options = data["op"], dict(data["options"])
    except (KeyError, TypeError, ValueError):
        raise SnnRlError(f"the layer graph holds a damaged node: {str(data)[:80]}") from None
    return Node(name, read_operation(kind, options), inputs)


def check(nodes: Sequence[Node]) -> dict[str, Shape]:
    """Shape of one sample behind every node, by name.

    Raises:
        SnnRlError: names are not unique, inputs do not come first, more or less than one input
            node leads, or shapes do not fit.
    """
    shapes: dict[str, Shape] = {}
    for index, node in enumerate(nodes):
        if isinstance(node.operation, Input) != (index == 0):
            raise SnnRlError("a layer graph starts with its only input node")
        missing = [name for name in node.inputs if name not in shapes]
        if missing or node.name in shapes or len(node.inputs) != node.operation.arity:
            raise SnnRlError(f"layer {node.name!r} is misplaced in the layer graph")
        try:
            shapes[node.name] = node.operation.shape(*(shapes[name] for name in node.inputs))
        except SnnRlError as error:
            raise SnnRlError(f"layer {node.name!r}: {error}") from None
        if isinstance(node.operation, Input) and not 0 <= node.operation.offset <= 255:
            raise SnnRlError("the pixels' offset must be a grey level from 0 to 255")
    if len(nodes) < 2:
        raise SnnRlError("the layer graph is empty")
    return shapes


def ranges(nodes: Sequence[Node]) -> dict[str, Range]:
    """What the values behind every node can be, by name."""
    found: dict[str, Range] = {}
    for node in nodes:
        found[node.name] = node.operation.values(*(found[name] for name in node.inputs))
    return found


def consumers(nodes: Sequence[Node], name: str) -> list[Node]:
    """The nodes that read the output of `name`."""
    return [node for node in nodes if name in node.inputs]


def rewire(node: Node, old: str, new: str) -> Node:
    """The node reading `new` wherever it read `old`."""
    return replace(node, inputs=tuple(new if name == old else name for name in node.inputs))


def read_operation(kind: Any, options: Mapping[str, Any]) -> Operation:
    """Operation from its JSON form, validated by type and size.

    Raises:
        SnnRlError: an unknown operation, or what is wrong with its options.
    """
    found = next((operation for operation in OPERATIONS if operation.kind == kind), None)
    if found is None:
        raise SnnRlError(f"the layer graph holds an unknown operation {str(kind)[:40]!r}")
    renamed = {"frame": "shape", "neurons": "shape"}
    types = get_type_hints(found)
    values = {}
    for entry in fields(found):
        name = renamed.get(entry.name, entry.name)
        if name in options:
            values[entry.name] = _read(options[name], types[entry.name], entry.metadata, name)
        elif entry.default is MISSING:
            raise SnnRlError(f"the layer graph holds a damaged node: {kind} without {name}")
    if unknown := options.keys() - {renamed.get(entry.name, entry.name) for entry in fields(found)}:
        raise SnnRlError(f"{kind} has no option {str(min(unknown))[:40]!r} in this version")
    return found(**values)


def _read(value: Any, kind: Any, bounds: Mapping[str, int], name: str) -> Any:
    """A value of JSON as an option of type `kind`."""
    low, high = bounds.get("low", 1), bounds.get("high", LARGEST)
    if type(None) in get_args(kind):
        if value is None:
            return None
        kind = next(choice for choice in get_args(kind) if choice is not type(None))
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and _whole(value, low, high):
        return value
    if kind is float and isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    if kind == Pair and _whole(value, low, high):
        return (value, value)
    several = isinstance(value, list | tuple) and value and all(_whole(n, low, high) for n in value)
    if several and (kind == Shape or (kind == Pair and len(value) == 2)):
        return tuple(value)
    if kind == Granularity and value in get_args(Granularity):
        return value
    raise SnnRlError(f"the layer graph holds a damaged node: {name} is {str(value)[:40]!r}")


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
