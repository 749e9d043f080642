"""torch.fx tracing with an example at hand: shapes are numbers, so code may look at them.

`x.view(x.size(0), -1)`, `b, c, h, w = x.shape` and `assert x.shape[1] == 4` trace like any other
line. What values are stays unknown: a branch that depends on them cannot be traced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from snn_rl.errors import ConversionError

BATCH = 3
"""Samples in the example; what depends on their number shows."""
EXAMPLE = "example"


def trace_with_example(module: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    """The module's graph in evaluation mode; every node's meta[EXAMPLE] is what it computes.

    Args:
        module: copied; a function of [batch, *shape].

    Raises:
        ConversionError: branches that depend on values, or layers that do not fit the input.
    """
    copied = copy.deepcopy(module).eval()
    device = next((parameter.device for parameter in copied.parameters()), None)
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            tracer = _Tracer(
                torch.rand(BATCH, *shape, generator=generator, device="cpu").to(device)
            )
            graph = tracer.trace(copied)
    except ConversionError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConversionError(
            f"{type(module).__name__} cannot be traced ({reason}): its forward must be a fixed "
            f"sequence of layers without data-dependent branches, for inputs of shape {shape}"
        ) from error
    return fx.GraphModule(copied, graph)


def example(node: fx.Node) -> Any:
    """What a node computes for the example: a tensor [BATCH, ...], or whatever it is."""
    return node.meta[EXAMPLE]


def compute(node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    """What a function or method node gives for other values of the nodes that it reads."""
    args: Any = fx.node.map_arg(node.args, value)
    kwargs: Any = fx.node.map_arg(node.kwargs, value)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    function: Any = node.target
    return function(*args, **kwargs)


def attribute(root: nn.Module, target: Any) -> Any:
    """What a dotted name stands for below a module."""
    for part in str(target).split("."):
        root = getattr(root, part)
    return root


class _Proxy(fx.Proxy):
    """Stands for a tensor in a forward; its shape is the example's."""

    @property
    def shape(self) -> torch.Size:
        """Of the example."""
        found: torch.Size = example(self.node).shape
        return found

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the example."""
        found: torch.dtype = example(self.node).dtype
        return found

    @property
    def device(self) -> torch.device:
        """Of the example."""
        found: torch.device = example(self.node).device
        return found

    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """Shape, or its entry `dim`."""
        return self.shape if dim is None else self.shape[dim]


class _Tracer(fx.Tracer):
    """Computes what it traces."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.computing = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self.computing:  # a layer that calls its own parts
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.computing:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *others: Any, **options: Any
    ) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *others, **options)
        if kind != "output":
            proxy.node.meta[EXAMPLE] = self._compute(kind, target, args, kwargs)
        return proxy

    def _compute(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "placeholder":
            return self.x
        args, kwargs = fx.node.map_aggregate((args, kwargs), _value)
        self.computing = True
        try:
            if kind == "get_attr":
                return attribute(self.root, target)
            if kind == "call_module":
                return self.root.get_submodule(target).forward(*args, **kwargs)
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs)
        finally:
            self.computing = False


def _value(argument: Any) -> Any:
    if not isinstance(argument, fx.Proxy):
        return argument
    found = example(argument.node)
    return found.clone() if isinstance(found, Tensor) else found  # operations may work in place
