"""Modules to trace and convert, shared by tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from snn_rl.core.network import Network


class Made(nn.Module):
    """A module from layers and a forward function."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Residual(nn.Module):
    """conv-bn-relu, then a block with identity shortcut, one with a 1x1 convolution, a pool."""

    def __init__(self, channels: int = 6, *, bias: bool = True, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, channels, 3, padding=1, bias=bias)
        self.bn0 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, padding=1, stride=2, bias=bias)
        self.bn2 = nn.BatchNorm2d(2 * channels)
        self.short = nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=bias)
        self.bn3 = nn.BatchNorm2d(2 * channels)
        self.relu = nn.ReLU(inplace=inplace)
        self.pool = nn.AvgPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(2 * channels * 4, 24)
        self.drop = nn.Dropout(0.3)
        self.fc2 = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn0(self.stem(x)))
        x = self.relu(self.bn1(self.conv1(x)) + x)
        x = self.relu(self.bn2(self.conv2(x)) + self.bn3(self.short(x)))
        x = self.flatten(self.pool(x))
        return self.fc2(self.drop(self.relu(self.fc1(x))))


def random_statistics(module: nn.Module, seed: int) -> nn.Module:
    """Random biases and batch-norm parameters and statistics, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.3, 0.3),
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.1, 0.5),
            ):
                tensor.data.uniform_(low, high, generator=generator)  # type: ignore[union-attr]
        elif isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            layer.bias.data.uniform_(-0.3, 0.3, generator=generator)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    return module.eval()


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return random_statistics(build(), seed)


@torch.no_grad()
def output(network: Network, x: Tensor, timesteps: int = 1) -> Tensor:
    y, _ = network(x[None], network.initial_state(len(x)), timesteps=timesteps)
    return y[0]


def conv(inputs: int = 2, outputs: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


IMAGE, FEATURES = (2, 8, 8), (6,)
