"""What a graph keeps of torch's layers and functions: their options as plain data."""

from __future__ import annotations

import math
from typing import Any

from torch import fx, nn


def linear_options(layer: nn.Linear) -> dict[str, Any]:
    """Of a Linear."""
    return {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
    }


def conv_options(layer: nn.Conv2d) -> dict[str, Any]:
    """Of a Conv2d."""
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": listed(layer.kernel_size),
        "stride": listed(layer.stride),
        "padding": listed(layer.padding),
        "dilation": listed(layer.dilation),
        "groups": layer.groups,
        "bias": layer.bias is not None,
    }


def batch_norm_options(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> dict[str, Any]:
    """Of a batch-norm of vectors or images."""
    return {
        "num_features": layer.num_features,
        "eps": layer.eps,
        "momentum": layer.momentum,
        "affine": layer.affine,
        "dimensions": 2 if isinstance(layer, nn.BatchNorm2d) else 1,
    }


def pool_arguments(item: fx.Node) -> dict[str, Any]:
    """Arguments of functional.avg_pool2d by name."""
    names = ("kernel_size", "stride", "padding", "ceil_mode")
    return dict(zip(names, item.args[1:], strict=False)) | dict(item.kwargs)


def clamps_at_zero(item: fx.Node) -> bool:
    """Whether a clamp is a ReLU: from 0 on, without an upper end."""
    given: dict[str, Any] = dict(zip(("min", "max"), item.args[1:], strict=False))
    given |= dict(item.kwargs)
    lower = given.get("min")
    return isinstance(lower, int | float) and lower == 0 and given.get("max") is None


def window(before: tuple[int, ...], after: tuple[int, ...]) -> list[int] | None:
    """Edges of the windows whose averages turn images `before` into `after`, both with a batch.

    None where no windows tile the image. All of it is one window, dropped axes or not.
    """
    image = after[2:] if len(after) == 4 else (1, 1)
    if len(before) != 4 or after[:2] != before[:2] or math.prod(after[2:]) != math.prod(image):
        return None
    if any(whole % part for whole, part in zip(before[2:], image, strict=True)):
        return None
    return [whole // part for whole, part in zip(before[2:], image, strict=True)]


def listed(value: Any) -> Any:
    """Tuples as JSON has them."""
    return list(value) if isinstance(value, tuple) else value
