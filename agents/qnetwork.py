"""Q-networks: plain torch modules, and the layer graphs that are trained."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network
from snn_rl.errors import SnnRlError

SMALLEST = 36
"""Pixels at the edge of the smallest square that the Nature CNN reads."""

QNetworkFactory = Callable[[tuple[int, ...], int], nn.Module]
"""(input shape, number of actions) -> torch module of Q-values; pixels come as floats 0...255, less
the grey level of the background."""


def build_network(
    frame_shape: tuple[int, ...],
    actions: int,
    *,
    stack: int,
    hidden: list[int],
    width: float = 1.0,
    offset: int = 0,
    factory: QNetworkFactory | None = None,
) -> Network:
    """Freshly initialised Q-network that sees `stack` frames at once.

    Args:
        frame_shape: (features,) or (channels, side, side) of uint8 pixels.
        hidden: layers of the default network for vectors; images get the Nature CNN, those that
            are smaller or not square a small one.
        width: of the default networks for images, as a share of their channels and hidden units.
        offset: grey level that the network sees as zero.
        factory: builds another module than the default.

    Raises:
        SnnRlError: the module cannot be traced or gives no Q-value per action, or the image is too
            small.
    """
    pixels = len(frame_shape) == 3
    stacked = (frame_shape[0] * stack, *frame_shape[1:])
    if factory is not None:
        module = _own(factory, stacked, actions)
    elif pixels:
        square = stacked[1] == stacked[2] >= SMALLEST
        if square:
            module = nature_cnn(stacked[0], stacked[1], actions, width)
        else:
            module = small_cnn(stacked, actions, width)
    else:
        module = mlp(stacked[0], hidden, actions)
    network = trace(module, frame_shape, pixels=pixels, stack=stack, offset=offset)
    given = network.shapes[network.nodes[-1].name]
    if given != (actions,):
        raise SnnRlError(f"the Q-network gives values of shape {given} for {actions} actions")
    return network


def _own(factory: QNetworkFactory, shape: tuple[int, ...], actions: int) -> nn.Module:
    module: object = factory(shape, actions)
    if not isinstance(module, nn.Module):
        raise SnnRlError(f"q_network gave a {type(module).__name__}, not a torch module")
    return module


def mlp(features: int, hidden: list[int], actions: int) -> nn.Module:
    """Fully connected ReLU network: [batch, features] -> [batch, actions]."""
    sizes = [features, *hidden]
    layers: dict[str, nn.Module] = {}
    for number, (inputs, outputs) in enumerate(pairwise(sizes), 1):
        layers |= {f"fc{number}": nn.Linear(inputs, outputs), f"hidden{number}": nn.ReLU()}
    layers["q"] = nn.Linear(sizes[-1], actions)
    return nn.Sequential(OrderedDict(layers))


def nature_cnn(channels: int, side: int, actions: int, width: float = 1.0) -> nn.Module:
    """Mnih et al. 2015: [batch, channels, side, side] pixels 0...255 -> [batch, actions]."""
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        side = math.floor((side - kernel) / stride) + 1
    if side < 1:
        raise SnnRlError("the Nature CNN needs images of at least 36x36 pixels")
    first, second, hidden = (_share(width, size) for size in (32, 64, 512))
    layers = {
        "conv1": nn.Conv2d(channels, first, 8, stride=4),
        "hidden1": nn.ReLU(),
        "conv2": nn.Conv2d(first, second, 4, stride=2),
        "hidden2": nn.ReLU(),
        "conv3": nn.Conv2d(second, second, 3, stride=1),
        "hidden3": nn.ReLU(),
        "flatten": nn.Flatten(),
        "fc4": nn.Linear(second * side * side, hidden),
        "hidden4": nn.ReLU(),
        "q": nn.Linear(hidden, actions),
    }
    return _Pixels(OrderedDict(layers))


def small_cnn(shape: tuple[int, ...], actions: int, width: float = 1.0) -> nn.Module:
    """[batch, channels, height, width] pixels 0...255 -> [batch, actions], for images of any size.

    One 3x3 convolution and a layer of 128, as MinAtar's authors have it (Young and Tian 2019);
    larger images are halved first, by as many further convolutions as that takes.
    """
    channels, height, across = shape
    layers: dict[str, nn.Module] = {}
    number, stride = 1, 1
    maps, hidden = _share(width, 16), _share(width, 128)
    while number == 1 or height * across > 400:
        stride = 1 if height * across <= 400 else 2
        layers[f"conv{number}"] = nn.Conv2d(channels, maps, 3, stride=stride, padding=1)
        layers[f"hidden{number}"] = nn.ReLU()
        channels, number = maps, number + 1
        height, across = -(-height // stride), -(-across // stride)
    layers["flatten"] = nn.Flatten()
    layers[f"fc{number}"] = nn.Linear(channels * height * across, hidden)
    layers[f"hidden{number}"] = nn.ReLU()
    layers["q"] = nn.Linear(hidden, actions)
    return _Pixels(OrderedDict(layers))


def _share(width: float, size: int) -> int:
    return max(1, round(width * size))


class _Pixels(nn.Sequential):
    """Layers for pixels scaled to 0...1, applied to raw ones."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = super().forward(x / 255)  # type: ignore[no-untyped-call]
        return result
