"""Default Q-networks, as plain torch modules that `snn_rl.tracing.trace` turns into graphs."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

from snn_rl.errors import SnnRlError


def mlp(features: int, hidden: list[int], actions: int) -> nn.Module:
    """Fully connected ReLU network: [batch, features] -> [batch, actions]."""
    sizes = [features, *hidden]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], actions))


def nature_cnn(channels: int, side: int, actions: int) -> nn.Module:
    """Mnih et al. 2015: [batch, channels, side, side] pixels in 0...1 -> [batch, actions]."""
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        side = math.floor((side - kernel) / stride) + 1
    if side < 1:
        raise SnnRlError("the Nature CNN needs images of at least 36x36 pixels")
    return nn.Sequential(
        nn.Conv2d(channels, 32, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * side * side, 512),
        nn.ReLU(),
        nn.Linear(512, actions),
    )
