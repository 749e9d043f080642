"""How torch runs the operations: one function each that builds its parameters or runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.core import adaptive, neuron, operations
from snn_rl.core.operations import Operation


class Factors(nn.Module):
    """Trainable factors."""

    bias: None = None

    def __init__(self, shape: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))


Weighted = nn.Linear | nn.Conv2d | Factors
"""Layers with a `weight`, and a `bias` that may be None."""


def weighted(layer: nn.Module) -> Weighted:
    """`layer` as one with weights. Raises TypeError where it has none."""
    if not isinstance(layer, Weighted):
        raise TypeError(f"{type(layer).__name__} holds no weights")
    return layer


@singledispatch
def build(operation: Operation) -> nn.Module | None:
    """The module that holds the operation's parameters, freshly initialised; None without any."""
    return None


@build.register
def _(operation: operations.Linear) -> nn.Module:
    return nn.Linear(operation.in_features, operation.out_features, operation.bias)


@build.register
def _(operation: operations.Conv2d) -> nn.Module:
    return nn.Conv2d(
        operation.in_channels,
        operation.out_channels,
        operation.kernel_size,
        operation.stride,
        operation.padding,
        operation.dilation,
        operation.groups,
        operation.bias,
    )


@build.register
def _(operation: operations.BatchNorm) -> nn.Module:
    norm = nn.BatchNorm2d if operation.dimensions == 2 else nn.BatchNorm1d
    return norm(operation.num_features, operation.eps, operation.momentum, operation.affine)


@build.register
def _(operation: operations.LIFNeurons) -> nn.Module:
    return neuron.LIF(operation.neurons, operation.threshold, operation.leak, operation.start)


@build.register
def _(operation: operations.AdaptiveNeurons) -> nn.Module:
    return adaptive.AdaptiveLIF(
        operation.neurons, operation.threshold, operation.leak, operation.start
    )


@build.register
def _(operation: operations.Scale) -> nn.Module:
    return Factors(operation.factors or (1,))


@singledispatch
def run(
    operation: Operation, layer: nn.Module | None, inputs: Sequence[Tensor], training: bool
) -> Tensor:
    """One operation without state. Input and neurons are the network's own: they need more.

    Args:
        layer: what `build` gave.
        inputs: values [frames, 1 or timesteps, batch, ...].

    Raises:
        TypeError: the operation cannot be run alone.
    """
    raise TypeError(f"{operation.kind} is not run by itself")


@run.register(operations.Linear)
def _(_: Operation, layer: nn.Module, inputs: Sequence[Tensor], training: bool) -> Tensor:
    result: Tensor = layer(inputs[0])
    return result


@run.register(operations.Conv2d)
@run.register(operations.BatchNorm)
def _(_: Operation, layer: nn.Module, inputs: Sequence[Tensor], training: bool) -> Tensor:
    return _on_plain_batch(layer, inputs[0])


@run.register(operations.ReLU)
def _(_: Operation, layer: None, inputs: Sequence[Tensor], training: bool) -> Tensor:
    return functional.relu(inputs[0])


@run.register
def _(
    operation: operations.AvgPool2d, layer: None, inputs: Sequence[Tensor], training: bool
) -> Tensor:
    size, stride = operation.kernel_size, operation.stride
    return _on_plain_batch(lambda x: functional.avg_pool2d(x, size, stride), inputs[0])


@run.register
def _(
    operation: operations.SumPool2d, layer: None, inputs: Sequence[Tensor], training: bool
) -> Tensor:
    size, stride = operation.kernel_size, operation.stride
    # Sums are averages without the division by the window's area.
    return _on_plain_batch(
        lambda x: functional.avg_pool2d(x, size, stride, divisor_override=1), inputs[0]
    )


@run.register
def _(
    operation: operations.MaxPool2d, layer: None, inputs: Sequence[Tensor], training: bool
) -> Tensor:
    size, stride = operation.kernel_size, operation.stride
    return _on_plain_batch(lambda x: functional.max_pool2d(x, size, stride), inputs[0])


@run.register(operations.Flatten)
def _(_: Operation, layer: None, inputs: Sequence[Tensor], training: bool) -> Tensor:
    return _on_plain_batch(lambda x: x.flatten(1), inputs[0])


@run.register
def _(
    operation: operations.Dropout, layer: None, inputs: Sequence[Tensor], training: bool
) -> Tensor:
    # One mask per frame, held for all of its timesteps.
    mask = torch.ones_like(inputs[0][:, :1])
    if operation.channels:
        mask = mask[..., :1, :1]
    return inputs[0] * functional.dropout(mask, operation.p, training)


@run.register(operations.Add)
def _(_: Operation, layer: None, inputs: Sequence[Tensor], training: bool) -> Tensor:
    return inputs[0] + inputs[1]


@run.register(operations.Scale)
def _(_: Operation, layer: Factors, inputs: Sequence[Tensor], training: bool) -> Tensor:
    return inputs[0] * layer.weight


def _on_plain_batch(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of a batch [items, ...] on values [frames, timesteps, batch, ...]."""
    result = function(x.flatten(0, 2))
    return result.reshape(*x.shape[:3], *result.shape[1:])
