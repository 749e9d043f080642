"""Collects the layer graph of a module while it is read: nodes, their layers, names and shapes."""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn

from snn_rl.conversion.affine import Affine, fold_affine
from snn_rl.conversion.layer_options import refused
from snn_rl.conversion.padding import fold_padding
from snn_rl.conversion.tracer import example
from snn_rl.core.execute import build
from snn_rl.core.graph import Node
from snn_rl.core.network import Network
from snn_rl.core.operations import Flatten, Operation


class GraphBuilder:
    """A layer graph as it grows.

    Attributes:
        names: value of torch.fx -> node that produces it.
        shapes: of one sample, by node.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.layers: dict[str, nn.Module] = {}
        self.names: dict[fx.Node, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def affine(self, item: fx.Node, source: fx.Node, affine: Affine) -> None:
        """A map of the value of `source`."""
        node = Node(self.free_name(f"{item.name}_affine"), affine, (self.names[source],))
        self.append(item, node)

    def add(
        self,
        item: fx.Node,
        operation: Operation,
        inputs: tuple[fx.Node, ...] = (),
        layer: nn.Module | None = None,
    ) -> None:
        """The node of an operation on the values of `inputs`; `layer` is copied.

        Raises:
            ConversionError: it reads an image that lost one of its axes, or holds parameters that
                its kind of layer does not have.
        """
        name = self.free_name(item.name) if self.nodes else "input"
        for source in inputs:
            half = self.shapes[self.names[source]] != example(source).shape[1:]
            if half and not isinstance(operation, Flatten):
                raise refused(item, f"{item.name} of a half-squeezed image")
        sources = tuple(self.names[source] for source in inputs)
        node = Node(name, operation, sources)
        if layer is not None:
            expected: Any = build(operation)
            if layer.state_dict().keys() != expected.state_dict().keys():
                raise refused(item, f"{type(layer).__name__} with unusual parameters")
            layer = copy.deepcopy(layer)
        self.append(item, node, layer)

    def append(self, item: fx.Node, node: Node, layer: nn.Module | None = None) -> None:
        """A node, whose value is that of `item`."""
        self.nodes.append(node)
        self.names[item] = node.name
        self.shapes[node.name] = tuple(example(item).shape[1:])
        if layer is not None:
            self.layers[node.name] = layer

    def free_name(self, name: str) -> str:
        """A free name; a layer cannot be called like an attribute of ModuleDict, e.g. "values"."""
        taken = {node.name for node in self.nodes}
        while hasattr(nn.ModuleDict(), name) or name in taken:
            name += "_"
        return name

    def in_place(self, item: fx.Node, source: fx.Node) -> None:
        """From here on `source`, under all of its names, holds the result of `item`."""
        old = self.names[source]
        self.names.update({value: self.names[item] for value, n in self.names.items() if n == old})

    def finish(self, output: str) -> Network:
        """The network that ends in the node `output`; affine maps folded into its layers, dead
        branches dropped."""
        nodes: list[Node] = []
        needed = {output}
        for node in reversed(self.nodes):
            if node.name in needed:
                nodes.insert(0, node)
                needed.update(node.inputs)
        nodes = fold_affine(nodes, self.layers, self.shapes)
        nodes = fold_padding(nodes, self.layers)
        network = Network(nodes)
        for name, layer in self.layers.items():
            if name in network.layers:
                network.layers[name].load_state_dict(layer.state_dict())
        return network
