"""The layer graph: what a network computes, as plain data that fits in a JSON file.

A graph is a list of nodes in execution order. The same node types describe an ANN (relu,
batchnorm, avgpool) and the spiking network it becomes (lif, sumpool, scale).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import nn

from snn_rl.core.neuron import LIF
from snn_rl.errors import SnnRlError

Op = Literal[
    "input",  # the observation; options: shape, pixels, stack, offset
    "linear",
    "conv",
    "batchnorm",
    "relu",
    "lif",  # options: shape, threshold, leak (granularities)
    "avgpool",
    "sumpool",  # average-pooling of spikes, its 1/area folded into the next layer
    "flatten",
    "dropout",
    "add",
    "scale",  # one trainable factor: the amplitude of spikes that enter an addition
]

WEIGHTED: tuple[Op, ...] = ("linear", "conv")
"""Operations whose weights can absorb a factor on their input."""


@dataclass(frozen=True)
class Node:
    """One operation: its unique name, the names of its inputs, its constructor options."""

    name: str
    op: Op
    inputs: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `node_from_dict` reverses it."""
        return {
            "name": self.name,
            "op": self.op,
            "inputs": list(self.inputs),
            "options": self.options,
        }


def node_from_dict(data: Any) -> Node:
    """Node from its JSON form. Raises SnnRlError if it is not one."""
    try:
        node = Node(str(data["name"]), data["op"], tuple(data["inputs"]), dict(data["options"]))
    except (KeyError, TypeError, ValueError):
        raise SnnRlError(f"the layer graph holds a damaged node: {str(data)[:80]}") from None
    if node.op not in get_args(Op):
        raise SnnRlError(f"the layer graph holds an unknown operation {str(node.op)[:40]!r}")
    return node


def check(nodes: list[Node]) -> None:
    """Raise SnnRlError unless names are unique, inputs come first and one input node leads."""
    known: set[str] = set()
    for index, node in enumerate(nodes):
        if (node.op == "input") != (index == 0):
            raise SnnRlError("a layer graph starts with its only input node")
        missing = [name for name in node.inputs if name not in known]
        arity = {"input": 0, "add": 2}.get(node.op, 1)
        if missing or node.name in known or len(node.inputs) != arity:
            raise SnnRlError(f"layer {node.name!r} is misplaced in the layer graph")
        known.add(node.name)
    if nodes and not 0 <= nodes[0].options.get("offset", 0) <= 255:
        raise SnnRlError("the pixels' offset must be a grey level from 0 to 255")
    if len(nodes) < 2:
        raise SnnRlError("the layer graph is empty")


def consumers(nodes: list[Node], name: str) -> list[Node]:
    """The nodes that read the output of `name`."""
    return [node for node in nodes if name in node.inputs]


def rewire(node: Node, old: str, new: str) -> Node:
    """The node reading `new` wherever it read `old`."""
    return replace(node, inputs=tuple(new if name == old else name for name in node.inputs))


def build_module(node: Node) -> nn.Module | None:
    """The torch module that holds the node's parameters, freshly initialised; None without any."""
    options = node.options
    match node.op:
        case "linear":
            return nn.Linear(**options)
        case "conv":
            return nn.Conv2d(**options)
        case "batchnorm":
            kind = nn.BatchNorm2d if options["dimensions"] == 2 else nn.BatchNorm1d
            return kind(**{key: value for key, value in options.items() if key != "dimensions"})
        case "lif":
            return LIF(tuple(options["shape"]), options["threshold"], options["leak"])
        case "scale":
            return Scale()
        case _:
            return None


class Scale(nn.Module):
    """One trainable factor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
