"""Turns a user's torch module into a layer graph, or says which operation stands in the way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from snn_rl.conversion.affine import Affine, probe
from snn_rl.conversion.building import GraphBuilder
from snn_rl.conversion.heads import Head, constant, find_head
from snn_rl.conversion.layer_options import (
    batch_norm,
    clamps_at_zero,
    convolution,
    linear,
    pooling_function,
    pooling_layer,
    refused,
    window,
)
from snn_rl.conversion.padding import Pad
from snn_rl.conversion.tracer import BATCH, compute, example, trace_with_example
from snn_rl.core.graph import Node
from snn_rl.core.network import Network
from snn_rl.core.operations import (
    PIXEL_UNIT,
    Add,
    AvgPool2d,
    Dropout,
    Flatten,
    Input,
    ReLU,
)
from snn_rl.errors import ConversionError

_RESHAPES = frozenset(["flatten", "view", "reshape", "squeeze", "contiguous", "float", "to"])
_CLAMPS = ("clamp", "clamp_", "clamp_min", "clamp_min_")
_AFFINE = ("add", "radd", "sub", "rsub", "subtract", "mul", "multiply", "truediv", "div", "neg")


def trace(
    module: nn.Module,
    input_shape: tuple[int, ...],
    *,
    pixels: bool,
    stack: int = 1,
    offset: int = 0,
) -> Network:
    """Network that computes what `module` computes.

    Args:
        module: feed-forward module of a batch [batch, stack * channels, ...] (an image) or
            [batch, stack * features]. Its parameters are copied.
        input_shape: shape of one frame, e.g. (1, 84, 84) or (4,).
        pixels: the frames are uint8 and the module sees them as floats 0...255.
        stack: number of consecutive frames the module sees at once.
        offset: grey level that is taken off the pixels before the module sees them.

    Raises:
        ConversionError: names the operation that has no spiking counterpart, or the layer whose
            weights are not finite.
    """
    stacked = (stack * input_shape[0], *input_shape[1:])
    traced = trace_with_example(module, stacked)
    reader = _Reader(traced, Input(tuple(input_shape), pixels, stack, offset))
    for item in traced.graph.nodes:
        reader.read(item)
    device = next((p.device for p in module.parameters()), None)
    network = reader.graph.finish(reader.output).to(device).train(module.training)
    check_finite(network)
    return network


def check_finite(network: Network) -> None:
    """Raise ConversionError, naming the layer, if a number of a network is NaN or infinite."""
    for name, value in network.state_dict().items():
        if value.is_meta or not value.is_floating_point():
            continue
        if not bool(value.isfinite().all()):
            layer = name.removeprefix("layers.")
            raise ConversionError(f"{layer!r} is not finite: the training before has diverged")


class _Reader:
    """Reads torch.fx nodes in order: which operation is each, or why it is none."""

    def __init__(self, traced: fx.GraphModule, seen: Input) -> None:
        self.traced, self.seen = traced, seen
        self.modules = dict(traced.named_modules())
        self.graph = GraphBuilder()
        self.head = find_head(traced)
        self.output = ""

    def read(self, item: fx.Node) -> None:
        """Read one fx node."""
        if item.op == "placeholder":
            if self.graph.nodes:
                raise ConversionError("the module takes more than one input")
            self.graph.add(item, self.seen)
            if self.seen.pixels:  # the module counts them in whole grey levels
                whole = torch.ones(example(item).shape[1:], dtype=torch.float64, device="cpu")
                self.graph.affine(item, item, Affine(whole / PIXEL_UNIT, whole * 0))
        elif item.op == "output":
            if not isinstance(item.args[0], fx.Node) or item.args[0] not in self.graph.names:
                raise ConversionError("the module must return one tensor")
            self.output = self.graph.names[item.args[0]]
        elif self.head is not None and (item in self.head.leaves or item in self.head.nodes):
            if item is self.head.nodes[-1]:
                self._end(item, self.head)
        elif item.op == "call_module":
            self._module(item, self.modules[str(item.target)])
        elif item.op in ("call_function", "call_method"):
            self._function(item)

    def _end(self, item: fx.Node, head: Head) -> None:
        """One linear layer per branch of a linear head, and the sum of the branches."""
        by_source: dict[str, nn.Linear] = {}
        for index, leaf in enumerate(head.leaves):
            (source,) = _tensors(leaf, 1)
            layer = head.layer(index, self._linear(leaf))
            name = self.graph.names[source]
            if name in by_source:  # branches on the same features are one layer
                layer.weight.data += by_source[name].weight.data
                layer.bias.data += by_source[name].bias.data
            by_source[name] = layer
        names: list[str] = []
        for source, layer in by_source.items():
            names.append(self.graph.free_name(f"{item.name}_{len(names)}" if names else item.name))
            self.graph.append(item, Node(names[-1], linear(layer), (source,)), layer)
        before = names[0]
        for number, name in enumerate(names[1:]):
            total = Node(self.graph.free_name(f"{item.name}_sum{number}"), Add(), (before, name))
            self.graph.append(item, total)
            before = total.name

    def _linear(self, leaf: fx.Node) -> nn.Linear:
        layer = self.modules[str(leaf.target)]
        assert isinstance(layer, nn.Linear)
        return layer

    def _module(self, item: fx.Node, layer: nn.Module) -> None:
        (source,) = _tensors(item, 1)
        match layer:
            case nn.Linear():
                self.graph.add(item, linear(layer), (source,), layer)
            case nn.Conv2d():
                self.graph.add(item, convolution(item, layer), (source,), layer)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                self.graph.add(item, batch_norm(layer), (source,), layer)
            case nn.ReLU():
                self.graph.add(item, ReLU(), (source,))
                if layer.inplace:
                    self.graph.in_place(item, source)
            case nn.AvgPool2d() | nn.MaxPool2d():
                self.graph.add(item, pooling_layer(item, layer), (source,))
            case nn.AdaptiveAvgPool2d():
                self._adaptive(item, source)
            case nn.ZeroPad2d():
                self.graph.add(item, Pad(*layer.padding), (source,))
            case nn.Flatten():
                self._reshape(item, source)
            case nn.Dropout() | nn.Dropout2d():
                channels = isinstance(layer, nn.Dropout2d)
                self.graph.add(item, Dropout(layer.p, channels), (source,))
            case nn.Identity():
                self.graph.names[item] = self.graph.names[source]
            case _:
                raise refused(item, type(layer).__name__)

    def _function(self, item: fx.Node) -> None:
        target, kwargs = item.target, dict(item.kwargs)
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if name in ("add", "iadd", "add_") and self._joins(item):
            if kwargs or len(item.args) > 2:
                raise refused(item, "addition with a factor")
            inputs = _tensors(item, 2)
            self.graph.add(item, Add(), inputs)
            if name in ("iadd", "add_"):
                self.graph.in_place(item, inputs[0])
        elif name in ("relu", "relu_") or (name in _CLAMPS and clamps_at_zero(item)):
            (source,) = _tensors(item, 1)
            self.graph.add(item, ReLU(), (source,))
            in_place = name.endswith("_") or kwargs.get("inplace")
            if in_place or (target is functional.relu and len(item.args) > 1):
                self.graph.in_place(item, source)
        elif name in _RESHAPES:
            self._reshape(item, _tensors(item, 1)[0])
        elif target in (functional.avg_pool2d, functional.max_pool2d):
            self.graph.add(item, pooling_function(item), _tensors(item, 1))
        elif target is functional.adaptive_avg_pool2d or name == "mean":
            self._adaptive(item, _tensors(item, 1)[0])
        elif target in (functional.dropout, functional.dropout2d):
            p: Any = item.args[1] if len(item.args) > 1 else kwargs.get("p", 0.5)
            channels = target is functional.dropout2d
            self.graph.add(item, Dropout(float(p), channels), _tensors(item, 1))
        elif name.rstrip("_").removeprefix("i") in _AFFINE:
            self._constant_map(item, name)
        else:
            raise refused(item, name)

    def _joins(self, item: fx.Node) -> bool:
        """Whether an addition is one of two layers, not of a layer and a constant."""
        values = item.all_input_nodes
        return (
            sum(value in self.graph.names for value in values) == 2 or item.args[0] is item.args[1]
        )

    def _reshape(self, item: fx.Node, source: fx.Node) -> None:
        """Whatever only renames the axes of one sample."""
        before, after = tuple(example(source).shape), tuple(example(item).shape)
        if after == before:
            self.graph.names[item] = self.graph.names[source]
        elif after[:2] == before[:2] and math.prod(after) == math.prod(before) == BATCH * before[1]:
            self.graph.names[item] = self.graph.names[source]  # one of several squeezes
            if len(after) == 2:
                self.graph.add(item, Flatten(), (source,))
        elif after == (BATCH, math.prod(before[1:])):
            self.graph.add(item, Flatten(), (source,))
        else:
            raise refused(item, f"a reshape that keeps axes, to {after[1:]} of {before[1:]}")

    def _adaptive(self, item: fx.Node, source: fx.Node) -> None:
        """Averages over windows that tile the image, at the most one window: all of it."""
        before, after = example(source).shape, example(item).shape
        kernel = window(tuple(before), tuple(after))
        if kernel is None:
            raise refused(item, f"a mean from {tuple(before[1:])} to {tuple(after[1:])}")
        pool = AvgPool2d(kernel, kernel)
        if len(after) == 4:
            self.graph.add(item, pool, (source,))
            return
        node = Node(self.graph.free_name(f"{item.name}_image"), pool, (self.graph.names[source],))
        self.graph.append(item, node)
        self.graph.shapes[node.name] = (before[1], 1, 1)
        self.graph.append(item, Node(self.graph.free_name(item.name), Flatten(), (node.name,)))

    def _constant_map(self, item: fx.Node, name: str) -> None:
        """A constant factor or shift, e.g. x / 255 or x - self.mean."""
        sources = [value for value in item.all_input_nodes if value in self.graph.names]
        if len(sources) != 1:
            raise refused(item, f"{name} of two layers")
        (source,) = sources

        def run(x: Tensor) -> Any:
            def value(node: fx.Node) -> Any:
                return x.clone() if node is source else constant(self.traced, node)

            return compute(item, value)

        affine = probe(run, tuple(example(source).shape[1:]))
        if affine is None:
            raise refused(item, f"{name}, which is no constant factor or shift")
        self.graph.affine(item, source, affine)
        if name.endswith("_") or name in ("iadd", "isub", "imul", "itruediv"):
            self.graph.in_place(item, source)


def _tensors(item: fx.Node, count: int) -> Any:
    """The fx inputs of a node: exactly `count` tensors at the front of its arguments."""
    found = tuple(item.args[:count])
    if len(found) != count or not all(isinstance(value, fx.Node) for value in found):
        raise refused(item, f"{item.name} with a constant")
    return found
