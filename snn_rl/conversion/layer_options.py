"""What a graph keeps of torch's layers and functions, or why it cannot take them."""

from __future__ import annotations

import math
from typing import Any

from torch import fx, nn
from torch.nn import functional

from snn_rl.core import operations
from snn_rl.core.operations import AvgPool2d, MaxPool2d, Pair
from snn_rl.errors import ConversionError

SUPPORTED = (
    "ReLU, Linear, Conv2d, BatchNorm, AvgPool2d, AdaptiveAvgPool2d, MaxPool2d, Flatten, Dropout, "
    "ZeroPad2d, Identity, residual additions, constant factors and shifts, and linear (dueling) "
    "heads"
)


def refused(item: fx.Node, what: str) -> ConversionError:
    """The error that names a layer of the user's module and what it is."""
    return ConversionError(
        f"'{item.target}' ({what}) cannot be converted to spikes; supported are {SUPPORTED}"
    )


def linear(layer: nn.Linear) -> operations.Linear:
    """Of a Linear; sizes may be NumPy's, which JSON does not know."""
    return operations.Linear(
        int(layer.in_features), int(layer.out_features), layer.bias is not None
    )


def convolution(item: fx.Node, layer: nn.Conv2d) -> operations.Conv2d:
    """Of a Conv2d.

    Raises:
        ConversionError: it pads otherwise than with as many zeros on both sides.
    """
    if layer.padding_mode != "zeros":
        raise refused(item, f"Conv2d with {layer.padding_mode} padding")
    padding: Any = (0, 0) if layer.padding == "valid" else layer.padding
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(n % 2 for n in reach):
            raise refused(item, "Conv2d with padding that differs from side to side")
        padding = (reach[0] // 2, reach[1] // 2)
    return operations.Conv2d(
        int(layer.in_channels),
        int(layer.out_channels),
        _pair(layer.kernel_size),
        _pair(layer.stride),
        _pair(padding),
        _pair(layer.dilation),
        int(layer.groups),
        layer.bias is not None,
    )


def batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> operations.BatchNorm:
    """Of a batch-norm of vectors or images."""
    dimensions = 2 if isinstance(layer, nn.BatchNorm2d) else 1
    return operations.BatchNorm(
        int(layer.num_features), layer.eps, layer.momentum, layer.affine, dimensions
    )


def pooling_layer(item: fx.Node, layer: nn.AvgPool2d | nn.MaxPool2d) -> AvgPool2d | MaxPool2d:
    """Of a pooling layer.

    Raises:
        ConversionError: it pads, or has options that the graph does not know.
    """
    kind = type(layer).__name__
    if isinstance(layer, nn.MaxPool2d):
        if layer.dilation not in (1, (1, 1)) or layer.return_indices:
            raise refused(item, f"{kind} with dilation or indices")
    elif layer.divisor_override is not None:
        raise refused(item, f"{kind} with divisor_override")
    pool = MaxPool2d if isinstance(layer, nn.MaxPool2d) else AvgPool2d
    return _pooling(item, pool, layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)


def pooling_function(item: fx.Node) -> AvgPool2d | MaxPool2d:
    """Of a call of functional.avg_pool2d or max_pool2d. Raises like `pooling_layer`."""
    largest = item.target is functional.max_pool2d
    names = ["kernel_size", "stride", "padding", "dilation", "ceil_mode"]
    if not largest:
        names.remove("dilation")
    options: Any = dict(zip(names, item.args[1:], strict=False)) | dict(item.kwargs)
    further = len(item.args) > 1 + len(names) or options.get("dilation", 1) not in (1, (1, 1))
    if further or options.get("divisor_override") is not None or options.get("return_indices"):
        raise refused(item, "pooling with further options")
    stride = options.get("stride") or options["kernel_size"]
    padding, ceil = options.get("padding", 0), options.get("ceil_mode", False)
    pool = MaxPool2d if largest else AvgPool2d
    return _pooling(item, pool, options["kernel_size"], stride, padding, ceil)


def _pooling(
    item: fx.Node, pool: type[Any], kernel: Any, stride: Any, padding: Any, ceil: Any
) -> AvgPool2d | MaxPool2d:
    if padding not in (0, (0, 0)) or ceil:
        raise refused(item, "pooling with padding or ceil_mode")
    made: AvgPool2d | MaxPool2d = pool(_pair(kernel), _pair(stride))
    return made


def clamps_at_zero(item: fx.Node) -> bool:
    """Whether a clamp is a ReLU: from 0 on, without an upper end."""
    bounds: dict[str, Any] = dict(zip(("min", "max"), item.args[1:], strict=False))
    bounds |= dict(item.kwargs)
    lower = bounds.get("min")
    return isinstance(lower, int | float) and lower == 0 and bounds.get("max") is None


def window(before: tuple[int, ...], after: tuple[int, ...]) -> Pair | None:
    """Edges of the windows whose averages turn images `before` into `after`, both with a batch.

    None where no windows tile the image. All of it is one window, dropped axes or not.
    """
    image = after[2:] if len(after) == 4 else (1, 1)
    if len(before) != 4 or after[:2] != before[:2] or math.prod(after[2:]) != math.prod(image):
        return None
    if any(whole % part for whole, part in zip(before[2:], image, strict=True)):
        return None
    return before[2] // image[0], before[3] // image[1]


def _pair(value: Any) -> Pair:
    height, width = value if isinstance(value, tuple | list) else (value, value)
    return int(height), int(width)
