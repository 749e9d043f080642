"""Turns a user's torch module into a layer graph, or says which operation stands in the way."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from snn_rl.core import operations
from snn_rl.core.execute import build
from snn_rl.core.graph import Node, consumers
from snn_rl.core.network import Network
from snn_rl.core.operations import PIXEL_UNIT, AvgPool2d, MaxPool2d, Operation
from snn_rl.errors import ConversionError

_SUPPORTED = (
    "ReLU, Linear, Conv2d, BatchNorm, AvgPool2d, MaxPool2d, Flatten, Dropout, Identity, residual "
    "additions and a constant factor on the input"
)


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
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:
        raise ConversionError(
            f"{type(module).__name__} cannot be traced ({error}): its forward must be a fixed "
            "sequence of layers without data-dependent branches"
        ) from error
    reader = _Reader(traced, operations.Input(tuple(input_shape), pixels, stack, offset))
    for item in traced.graph.nodes:
        reader.read(item)
    return reader.finish()


class _Reader:
    """Reads torch.fx nodes in order and collects layer-graph nodes and their modules."""

    def __init__(self, traced: fx.GraphModule, seen: operations.Input) -> None:
        self.modules = dict(traced.named_modules())
        self.training = traced.training
        self.nodes: list[Node] = []
        self.layers: dict[str, nn.Module] = {}
        self.names: dict[fx.Node, str] = {}  # fx value -> node that produces it
        self.output = ""
        self.input_factor = 1.0
        self.seen = seen

    def read(self, item: fx.Node) -> None:
        """Read one fx node."""
        if item.op == "placeholder":
            if self.nodes:
                raise ConversionError("the module takes more than one input")
            self._add(item, self.seen)
        elif item.op == "output":
            if not isinstance(item.args[0], fx.Node):
                raise ConversionError("the module must return one tensor")
            self.output = self.names[item.args[0]]
        elif item.op == "call_module":
            self._module(item, self.modules[str(item.target)])
        elif item.op in ("call_function", "call_method"):
            self._function(item)
        else:
            raise ConversionError(
                f"'{item.target}' is used as a bare parameter; supported are {_SUPPORTED}"
            )

    def finish(self) -> Network:
        """The network, its input factor folded into the first layers, dead branches dropped."""
        nodes: list[Node] = []
        needed = {self.output}
        for node in reversed(self.nodes):
            if node.name in needed:
                nodes.insert(0, node)
                needed.update(node.inputs)
        factor = self.input_factor / (PIXEL_UNIT if self.seen.pixels else 1.0)
        if factor != 1.0:
            readers = consumers(nodes, nodes[0].name)
            for node in _through_shapes(nodes, readers):
                if not node.operation.weighted:
                    raise ConversionError(
                        f"'{node.name}' ({node.operation.kind}) reads the input directly; begin "
                        "with a Linear or Conv2d layer"
                    )
                layer: Any = self.layers[node.name]
                layer.weight.data.mul_(factor)
        network = Network(nodes)
        for name, layer in self.layers.items():
            if name in network.layers:
                network.layers[name].load_state_dict(layer.state_dict())
        device = next(
            (p.device for layer in self.layers.values() for p in layer.parameters()), None
        )
        return network.to(device).train(self.training)

    def _add(
        self,
        item: fx.Node,
        operation: Operation,
        inputs: tuple[fx.Node, ...] = (),
        layer: nn.Module | None = None,
    ) -> None:
        # A layer cannot be called like an attribute of ModuleDict, e.g. "values".
        name = f"{item.name}_" if hasattr(nn.ModuleDict(), item.name) else item.name
        name = "input" if operation is self.seen else name
        sources = tuple(self.names[source] for source in inputs)
        node = Node(name, operation, sources)
        self.nodes.append(node)
        self.names[item] = name
        if layer is not None:
            expected: Any = build(operation)
            if layer.state_dict().keys() != expected.state_dict().keys():
                raise _refused(item, f"{type(layer).__name__} with unusual parameters")
            self.layers[name] = copy.deepcopy(layer)

    def _in_place(self, item: fx.Node, source: fx.Node) -> None:
        """From here on `source`, under all of its names, holds the result of `item`."""
        old = self.names[source]
        self.names.update({value: self.names[item] for value, n in self.names.items() if n == old})

    def _module(self, item: fx.Node, layer: nn.Module) -> None:
        (source,) = _tensors(item, 1)
        match layer:
            case nn.Linear():
                linear = operations.Linear(
                    layer.in_features, layer.out_features, layer.bias is not None
                )
                self._add(item, linear, (source,), layer)
            case nn.Conv2d():
                self._add(item, _convolution(item, layer), (source,), layer)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                dimensions = 2 if isinstance(layer, nn.BatchNorm2d) else 1
                norm = operations.BatchNorm(
                    layer.num_features, layer.eps, layer.momentum, layer.affine, dimensions
                )
                self._add(item, norm, (source,), layer)
            case nn.ReLU():
                self._add(item, operations.ReLU(), (source,))
                if layer.inplace:
                    self._in_place(item, source)
            case nn.AvgPool2d():
                if layer.divisor_override is not None:
                    raise _refused(item, "AvgPool2d with divisor_override")
                kernel, stride = layer.kernel_size, layer.stride
                self._pool(item, AvgPool2d, source, kernel, stride, layer.padding, layer.ceil_mode)
            case nn.MaxPool2d():
                if layer.dilation not in (1, (1, 1)) or layer.return_indices:
                    raise _refused(item, "MaxPool2d with dilation or indices")
                kernel, stride = layer.kernel_size, layer.stride
                self._pool(item, MaxPool2d, source, kernel, stride, layer.padding, layer.ceil_mode)
            case nn.Flatten():
                if layer.start_dim != 1 or layer.end_dim != -1:
                    raise _refused(item, "Flatten that keeps axes")
                self._add(item, operations.Flatten(), (source,))
            case nn.Dropout():
                self._add(item, operations.Dropout(layer.p), (source,))
            case nn.Identity():
                self.names[item] = self.names[source]
            case _:
                raise _refused(item, type(layer).__name__)

    def _function(self, item: fx.Node) -> None:
        target, kwargs = item.target, dict(item.kwargs)
        if target in (operator.add, operator.iadd, torch.add, "add", "add_"):
            if kwargs or len(item.args) > 2:
                raise _refused(item, "addition with a factor")
            inputs = _tensors(item, 2)
            self._add(item, operations.Add(), inputs)
            if target in (operator.iadd, "add_"):
                self._in_place(item, inputs[0])
        elif target in (functional.relu, torch.relu, torch.relu_, "relu", "relu_"):
            (source,) = _tensors(item, 1)
            self._add(item, operations.ReLU(), (source,))
            if target in (torch.relu_, "relu_") or kwargs.get("inplace") or len(item.args) > 1:
                self._in_place(item, source)
        elif target in (torch.flatten, "flatten") and _flattens(item):
            self._add(item, operations.Flatten(), _tensors(item, 1))
        elif target in (functional.avg_pool2d, functional.max_pool2d):
            self._functional_pool(item)
        elif target is functional.dropout:
            (source,) = _tensors(item, 1)
            p: Any = item.args[1] if len(item.args) > 1 else kwargs.get("p", 0.5)
            self._add(item, operations.Dropout(float(p)), (source,))
        elif target == "float" or (target == "to" and torch.float32 in item.args):
            self.names[item] = self.names[_tensors(item, 1)[0]]
        elif target in (operator.truediv, operator.mul, torch.div, torch.mul):
            self._factor(item)
        else:
            raise _refused(item, getattr(target, "__name__", str(target)))

    def _functional_pool(self, item: fx.Node) -> None:
        (source,) = _tensors(item, 1)
        largest = item.target is functional.max_pool2d
        names = ["kernel_size", "stride", "padding", "dilation", "ceil_mode"]
        if not largest:
            names.remove("dilation")
        given = dict(zip(names, item.args[1:], strict=False)) | dict(item.kwargs)
        further = len(item.args) > 1 + len(names) or given.get("dilation", 1) not in (1, (1, 1))
        if further or given.get("divisor_override") is not None or given.get("return_indices"):
            raise _refused(item, "pooling with further options")
        stride = given.get("stride") or given["kernel_size"]
        padding, ceil = given.get("padding", 0), given.get("ceil_mode", False)
        pool = MaxPool2d if largest else AvgPool2d
        self._pool(item, pool, source, given["kernel_size"], stride, padding, ceil)

    def _pool(
        self,
        item: fx.Node,
        pool: type[AvgPool2d] | type[MaxPool2d],
        source: fx.Node,
        kernel: Any,
        stride: Any,
        padding: Any,
        ceil: Any,
    ) -> None:
        if padding not in (0, (0, 0)) or ceil:
            raise _refused(item, "pooling with padding or ceil_mode")
        self._add(item, pool(_pair(kernel), _pair(stride)), (source,))

    def _factor(self, item: fx.Node) -> None:
        """A constant factor on the input, e.g. x / 255."""
        source, constant = item.args[:2]
        divides = item.target in (operator.truediv, torch.div)
        if isinstance(constant, fx.Node) and not divides:
            source, constant = constant, source
        reads_input = isinstance(source, fx.Node) and self.names.get(source) == "input"
        if not reads_input or not isinstance(constant, int | float):
            raise _refused(item, "multiplication or division inside the network")
        if any(len(value.users) > 1 for value, name in self.names.items() if name == "input"):
            raise _refused(item, "a factor on one of several uses of the input")
        self.input_factor *= 1 / constant if divides else constant
        self.names[item] = self.names[source]  # type: ignore[index]


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


def _flattens(item: fx.Node) -> bool:
    names = ("start_dim", "end_dim")
    given = dict(zip(names, item.args[1:], strict=False)) | dict(item.kwargs)
    return [given.get("start_dim"), given.get("end_dim", -1)] == [1, -1]


def _through_shapes(nodes: list[Node], found: list[Node]) -> list[Node]:
    """Replace nodes that only reshape by the nodes that read them."""
    result: list[Node] = []
    for node in found:
        if node.operation.keeps_values:
            result += _through_shapes(nodes, consumers(nodes, node.name))
        else:
            result.append(node)
    return result


def _convolution(item: fx.Node, layer: nn.Conv2d) -> operations.Conv2d:
    if layer.padding_mode != "zeros":
        raise _refused(item, f"Conv2d with {layer.padding_mode} padding")
    padding = (0, 0) if layer.padding == "valid" else layer.padding
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(n % 2 for n in reach):
            raise _refused(item, "Conv2d with padding that differs from side to side")
        padding = (reach[0] // 2, reach[1] // 2)
    return operations.Conv2d(
        layer.in_channels,
        layer.out_channels,
        _pair(layer.kernel_size),
        _pair(layer.stride),
        _pair(padding),
        _pair(layer.dilation),
        layer.groups,
        layer.bias is not None,
    )


def _pair(value: Any) -> operations.Pair:
    height, width = value if isinstance(value, tuple | list) else (value, value)
    return int(height), int(width)
