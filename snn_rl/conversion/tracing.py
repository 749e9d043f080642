"""Turns a user's torch module into a layer graph, or says which operation stands in the way."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from snn_rl.conversion.affine import AFFINE, Affine, fold_affine, probe
from snn_rl.conversion.heads import Head, constant, find_head
from snn_rl.conversion.layer_options import (
    batch_norm_options,
    clamps_at_zero,
    conv_options,
    linear_options,
    listed,
    pool_arguments,
    window,
)
from snn_rl.conversion.padding import PAD, fold_padding
from snn_rl.conversion.tracer import BATCH, compute, example, trace_with_example
from snn_rl.core.graph import Node, build_module
from snn_rl.core.network import Network
from snn_rl.core.stacking import PIXEL_UNIT
from snn_rl.errors import ConversionError

_SUPPORTED = (
    "ReLU, Linear, Conv2d, BatchNorm, AvgPool2d, AdaptiveAvgPool2d, Flatten, Dropout, ZeroPad2d, "
    "Identity, residual additions, constant factors and shifts, and linear (dueling) heads"
)
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
        ConversionError: names the operation that has no spiking counterpart.
    """
    stacked = (stack * input_shape[0], *input_shape[1:])
    traced = trace_with_example(module, stacked)
    options = {"shape": list(input_shape), "pixels": pixels, "stack": stack, "offset": offset}
    reader = _Reader(traced, options)
    for item in traced.graph.nodes:
        reader.read(item)
    device = next((p.device for p in module.parameters()), None)
    return reader.finish().to(device).train(module.training)


class _Reader:
    """Reads torch.fx nodes in order and collects layer-graph nodes and their modules."""

    def __init__(self, traced: fx.GraphModule, input_options: dict[str, Any]) -> None:
        self.traced = traced
        self.modules = dict(traced.named_modules())
        self.nodes: list[Node] = []
        self.layers: dict[str, nn.Module] = {}
        self.names: dict[fx.Node, str] = {}  # fx value -> node that produces it
        self.shapes: dict[str, tuple[int, ...]] = {}  # of one sample, by node
        self.affines: dict[str, Affine] = {}
        self.head = find_head(traced)
        self.output = ""
        self.input_options = input_options

    def read(self, item: fx.Node) -> None:
        """Read one fx node."""
        if item.op == "placeholder":
            if self.nodes:
                raise ConversionError("the module takes more than one input")
            self._add(item, "input", options=self.input_options)
            if self.input_options["pixels"]:  # the module counts them in whole grey levels
                whole = torch.ones(example(item).shape[1:], dtype=torch.float64, device="cpu")
                self._affine(item, item, Affine(whole / PIXEL_UNIT, whole * 0))
        elif item.op == "output":
            if not isinstance(item.args[0], fx.Node) or item.args[0] not in self.names:
                raise ConversionError("the module must return one tensor")
            self.output = self.names[item.args[0]]
        elif self.head is not None and (item in self.head.leaves or item in self.head.nodes):
            if item is self.head.nodes[-1]:
                self._end(item, self.head)
        elif item.op == "call_module":
            self._module(item, self.modules[str(item.target)])
        elif item.op in ("call_function", "call_method"):
            self._function(item)

    def finish(self) -> Network:
        """The network; affine maps folded into its layers, dead branches dropped."""
        nodes: list[Node] = []
        needed = {self.output}
        for node in reversed(self.nodes):
            if node.name in needed:
                nodes.insert(0, node)
                needed.update(node.inputs)
        nodes = fold_affine(nodes, self.layers, self.affines, self.shapes)
        nodes = fold_padding(nodes, self.layers)
        network = Network(nodes)
        for name, layer in self.layers.items():
            if name in network.layers:
                network.layers[name].load_state_dict(layer.state_dict())
        return network

    def _end(self, item: fx.Node, head: Head) -> None:
        """One linear layer per branch of a linear head, and the sum of the branches."""
        by_source: dict[str, nn.Linear] = {}
        for index, leaf in enumerate(head.leaves):
            (source,) = _tensors(leaf, 1)
            layer = head.layer(index, self._linear(leaf))
            name = self.names[source]
            if name in by_source:  # branches on the same features are one layer
                layer.weight.data += by_source[name].weight.data
                layer.bias.data += by_source[name].bias.data
            by_source[name] = layer
        names: list[str] = []
        for source, layer in by_source.items():
            names.append(self._place(f"{item.name}_{len(names)}" if names else item.name))
            self._append(item, Node(names[-1], "linear", (source,), linear_options(layer)), layer)
        for number, name in enumerate(names[1:]):
            total = Node(self._place(f"{item.name}_sum{number}"), "add", (self.names[item], name))
            if number == 0:
                total = Node(total.name, "add", (names[0], name))
            self._append(item, total)

    def _linear(self, leaf: fx.Node) -> nn.Linear:
        layer = self.modules[str(leaf.target)]
        assert isinstance(layer, nn.Linear)
        return layer

    def _affine(self, item: fx.Node, source: fx.Node, affine: Affine) -> None:
        node = Node(self._place(f"{item.name}_affine"), AFFINE, (self.names[source],))
        self.affines[node.name] = affine
        self._append(item, node)

    def _add(
        self,
        item: fx.Node,
        op: Any,
        inputs: tuple[fx.Node, ...] = (),
        options: dict[str, Any] | None = None,
        layer: nn.Module | None = None,
    ) -> None:
        name = "input" if op == "input" else self._place(item.name)
        for source in inputs:
            if op != "flatten" and self.shapes[self.names[source]] != example(source).shape[1:]:
                raise _refused(item, f"{item.name} of a half-squeezed image")
        sources = tuple(self.names[source] for source in inputs)
        node = Node(name, op, sources, options or {})
        if layer is not None:
            expected: Any = build_module(node)
            if layer.state_dict().keys() != expected.state_dict().keys():
                raise _refused(item, f"{type(layer).__name__} with unusual parameters")
            layer = copy.deepcopy(layer)
        self._append(item, node, layer)

    def _append(self, item: fx.Node, node: Node, layer: nn.Module | None = None) -> None:
        self.nodes.append(node)
        self.names[item] = node.name
        self.shapes[node.name] = tuple(example(item).shape[1:])
        if layer is not None:
            self.layers[node.name] = layer

    def _place(self, name: str) -> str:
        """A free name; a layer cannot be called like an attribute of ModuleDict, e.g. "values"."""
        taken = {node.name for node in self.nodes}
        while hasattr(nn.ModuleDict(), name) or name in taken:
            name += "_"
        return name

    def _in_place(self, item: fx.Node, source: fx.Node) -> None:
        """From here on `source`, under all of its names, holds the result of `item`."""
        old = self.names[source]
        self.names.update({value: self.names[item] for value, n in self.names.items() if n == old})

    def _module(self, item: fx.Node, layer: nn.Module) -> None:
        (source,) = _tensors(item, 1)
        match layer:
            case nn.Linear():
                self._add(item, "linear", (source,), linear_options(layer), layer)
            case nn.Conv2d():
                if layer.padding_mode != "zeros":
                    raise _refused(item, f"Conv2d with {layer.padding_mode} padding")
                self._add(item, "conv", (source,), conv_options(layer), layer)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                options = batch_norm_options(layer)
                self._add(item, "batchnorm", (source,), options, layer)
            case nn.ReLU():
                self._add(item, "relu", (source,))
                if layer.inplace:
                    self._in_place(item, source)
            case nn.AvgPool2d():
                if layer.divisor_override is not None:
                    raise _refused(item, "AvgPool2d with divisor_override")
                kernel, stride = layer.kernel_size, layer.stride
                self._pool(item, source, kernel, stride, layer.padding, layer.ceil_mode)
            case nn.AdaptiveAvgPool2d():
                self._adaptive(item, source)
            case nn.ZeroPad2d():
                self._add(item, PAD, (source,), {"padding": list(layer.padding)})
            case nn.Flatten():
                self._reshape(item, source)
            case nn.Dropout2d():
                self._add(item, "dropout", (source,), {"p": layer.p, "channels": True})
            case nn.Dropout():
                self._add(item, "dropout", (source,), {"p": layer.p})
            case nn.Identity():
                self.names[item] = self.names[source]
            case nn.MaxPool2d():
                raise ConversionError(
                    f"'{item.target}' (MaxPool2d) has no spiking counterpart; use AvgPool2d"
                )
            case _:
                raise _refused(item, type(layer).__name__)

    def _function(self, item: fx.Node) -> None:
        target, kwargs = item.target, dict(item.kwargs)
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if name in ("add", "iadd", "add_") and self._joins(item):
            if kwargs or len(item.args) > 2:
                raise _refused(item, "addition with a factor")
            inputs = _tensors(item, 2)
            self._add(item, "add", inputs)
            if name in ("iadd", "add_"):
                self._in_place(item, inputs[0])
        elif name in ("relu", "relu_") or (name in _CLAMPS and clamps_at_zero(item)):
            (source,) = _tensors(item, 1)
            self._add(item, "relu", (source,))
            in_place = name.endswith("_") or kwargs.get("inplace")
            if in_place or (target is functional.relu and len(item.args) > 1):
                self._in_place(item, source)
        elif name in _RESHAPES:
            self._reshape(item, _tensors(item, 1)[0])
        elif target is functional.avg_pool2d:
            self._average(item)
        elif target is functional.adaptive_avg_pool2d or name == "mean":
            self._adaptive(item, _tensors(item, 1)[0])
        elif target in (functional.dropout, functional.dropout2d):
            (source,) = _tensors(item, 1)
            p: Any = item.args[1] if len(item.args) > 1 else kwargs.get("p", 0.5)
            channels = {"channels": True} if target is functional.dropout2d else {}
            self._add(item, "dropout", (source,), {"p": float(p)} | channels)
        elif name.rstrip("_").removeprefix("i") in _AFFINE:
            self._constant_map(item, name)
        else:
            raise _refused(item, name)

    def _joins(self, item: fx.Node) -> bool:
        """Whether an addition is one of two layers, not of a layer and a constant."""
        values = item.all_input_nodes
        return sum(value in self.names for value in values) == 2 or item.args[0] is item.args[1]

    def _reshape(self, item: fx.Node, source: fx.Node) -> None:
        """Whatever only renames the axes of one sample."""
        before, after = tuple(example(source).shape), tuple(example(item).shape)
        if after == before:
            self.names[item] = self.names[source]
        elif after[:2] == before[:2] and math.prod(after) == math.prod(before) == BATCH * before[1]:
            self.names[item] = self.names[source]  # one of several squeezes
            if len(after) == 2:
                self._add(item, "flatten", (source,))
        elif after == (BATCH, math.prod(before[1:])):
            self._add(item, "flatten", (source,))
        else:
            raise _refused(item, f"a reshape that keeps axes, to {after[1:]} of {before[1:]}")

    def _average(self, item: fx.Node) -> None:
        given = pool_arguments(item)
        if given.get("divisor_override") is not None or len(item.args) > 5:
            raise _refused(item, "average pooling with further options")
        stride = given.get("stride") or given["kernel_size"]
        padding, ceil = given.get("padding", 0), given.get("ceil_mode", False)
        (source,) = _tensors(item, 1)
        self._pool(item, source, given["kernel_size"], stride, padding, ceil)

    def _adaptive(self, item: fx.Node, source: fx.Node) -> None:
        """Averages over windows that tile the image, at the most one window: all of it."""
        before, after = example(source).shape, example(item).shape
        kernel = window(tuple(before), tuple(after))
        if kernel is None:
            raise _refused(item, f"a mean from {tuple(before[1:])} to {tuple(after[1:])}")
        options = {"kernel_size": kernel, "stride": kernel}
        if len(after) == 4:
            self._add(item, "avgpool", (source,), options)
            return
        node = Node(self._place(f"{item.name}_image"), "avgpool", (self.names[source],), options)
        self._append(item, node)
        self.shapes[node.name] = (before[1], 1, 1)
        self._append(item, Node(self._place(item.name), "flatten", (node.name,)))

    def _constant_map(self, item: fx.Node, name: str) -> None:
        """A constant factor or shift, e.g. x / 255 or x - self.mean."""
        sources = [value for value in item.all_input_nodes if value in self.names]
        if len(sources) != 1:
            raise _refused(item, f"{name} of two layers")
        (source,) = sources

        def run(x: Tensor) -> Any:
            def value(node: fx.Node) -> Any:
                return x.clone() if node is source else constant(self.traced, node)

            return compute(item, value)

        affine = probe(run, tuple(example(source).shape[1:]))
        if affine is None:
            raise _refused(item, f"{name}, which is no constant factor or shift")
        self._affine(item, source, affine)
        if name.endswith("_") or name in ("iadd", "isub", "imul", "itruediv"):
            self._in_place(item, source)

    def _pool(
        self, item: fx.Node, source: fx.Node, kernel: Any, stride: Any, padding: Any, ceil: Any
    ) -> None:
        if padding not in (0, (0, 0)) or ceil:
            raise _refused(item, "average pooling with padding or ceil_mode")
        self._add(
            item, "avgpool", (source,), {"kernel_size": listed(kernel), "stride": listed(stride)}
        )


def _tensors(item: fx.Node, count: int) -> Any:
    """The fx inputs of a node: exactly `count` tensors at the front of its arguments."""
    found = tuple(item.args[:count])
    if len(found) != count or not all(isinstance(value, fx.Node) for value in found):
        raise _refused(item, f"{item.name} with a constant")
    return found


def _refused(item: fx.Node, what: str) -> ConversionError:
    return ConversionError(
        f"'{item.target}' ({what}) cannot be converted to spikes; supported are {_SUPPORTED}"
    )
