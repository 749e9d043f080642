"""The ways in which people write Q-networks: each traces to what the module computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from modules import FEATURES, IMAGE, Made, conv, output, seeded
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network

Build = Callable[[], nn.Module]


def flattening(forward: Callable[[Tensor], Tensor]) -> Build:
    """The function between a convolution and a linear layer."""
    return lambda: Made(lambda m, x: m.b(forward(m.a(x).relu())), a=conv(), b=nn.Linear(192, 5))


def shaped(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    assert (channels, height, width) == (3, 8, 8) and x.ndim == x.dim() == 4
    return x.reshape(batch, channels * height * width)


FLATTENS: dict[str, Build] = {
    "view size": flattening(lambda x: x.view(x.size(0), -1)),
    "view shape": flattening(lambda x: x.view(x.shape[0], -1)),
    "view -1": flattening(lambda x: x.view(-1, 192)),
    "view size()": flattening(lambda x: x.view(x.size()[0], -1)),
    "reshape": flattening(lambda x: x.reshape(-1, 3 * 8 * 8)),
    "torch.reshape": flattening(lambda x: torch.reshape(x, (x.shape[0], -1))),
    "contiguous": flattening(lambda x: x.contiguous().view(len(x.shape) - 4 + x.shape[0], -1)),
    "shapes by name": flattening(shaped),
    "same shape": flattening(lambda x: x.view(-1, 3, 8, 8).flatten(1)),
}


class Dueling(nn.Module):
    """Wang et al. 2016; value and advantage on shared features, or each with a hidden layer."""

    def __init__(self, mean: Callable[[Tensor], Tensor], *, hidden: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(6, 12), nn.ReLU())
        self.value, self.advantage = (self.stream(n, hidden) for n in (1, 4))
        self.mean = mean

    def stream(self, outputs: int, hidden: bool) -> nn.Module:
        if not hidden:
            return nn.Linear(12, outputs)
        return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        value, advantage = self.value(x), self.advantage(x)
        result: Tensor = value + advantage - self.mean(advantage)
        return result


MEANS: list[Callable[[Tensor], Tensor]] = [
    lambda a: a.mean(1, keepdim=True),
    lambda a: a.mean(dim=-1, keepdim=True),
    lambda a: torch.mean(a, 1, keepdim=True),
    lambda a: a.mean(1).unsqueeze(1),
    lambda a: a.mean(1).unsqueeze(1).expand(a.size(0), a.size(1)),
    lambda a: a.sum(1, keepdim=True) / a.shape[1],
]


class Normalised(nn.Module):
    """Statistics of the input as buffers, a factor and a shift on the output."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1, 1, 6))
        self.register_buffer("std", torch.linspace(0.5, 2, 6))
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / (self.std + 0)
        return 10 * self.b(self.a(x).relu()) - 3


class Channels(nn.Module):
    """Statistics per channel before and within convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.3, -0.2]).view(1, 2, 1, 1))
        self.a, self.b = nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 6, 3, bias=False)
        self.c = nn.Linear(96, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.a((x - self.mean).mul_(2)) * 0.5 + 0.1).relu()
        x = (self.b((x - 0.5) * 3)).relu()
        return self.c(torch.flatten(x * 0.7 + 0.2, 1))


AFFINE: dict[str, tuple[tuple[int, ...], Build]] = {
    "vectors": (FEATURES, Normalised),
    "channels": (IMAGE, Channels),
    "inside": (
        FEATURES,
        lambda: nn.Sequential(
            nn.Linear(6, 8), Made(lambda m, x: 2 * x + 1), nn.ReLU(), nn.Linear(8, 5)
        ),
    ),
    "no bias": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.b((1 - m.a(x)).relu()),
            a=nn.Linear(6, 8, bias=False),
            b=nn.Linear(8, 5),
        ),
    ),
}

OTHERS: dict[str, tuple[tuple[int, ...], Build]] = {
    "global average": (
        IMAGE,
        lambda: nn.Sequential(
            conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)
        ),
    ),
    "functional global average, squeezed": (
        IMAGE,
        lambda: Made(
            lambda m, x: m.b(
                functional.adaptive_avg_pool2d(m.a(x).relu(), (1, 1)).squeeze(-1).squeeze(-1)
            ),
            a=conv(),
            b=nn.Linear(3, 5),
        ),
    ),
    "mean over the image": (
        IMAGE,
        lambda: Made(lambda m, x: m.b(m.a(x).relu().mean((2, 3))), a=conv(), b=nn.Linear(3, 5)),
    ),
    "adaptive average of windows": (
        IMAGE,
        lambda: nn.Sequential(
            conv(), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 2)), nn.Flatten(), nn.Linear(24, 5)
        ),
    ),
    "clamps": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.c(m.b(m.a(x).clamp(min=0)).clamp_min(0)),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 8),
            c=nn.Linear(8, 5),
        ),
    ),
    "dropout of channels": (
        IMAGE,
        lambda: nn.Sequential(
            conv(), nn.ReLU(), nn.Dropout2d(0.3), nn.Flatten(), nn.Linear(192, 5)
        ),
    ),
    "zeros on both sides": (
        IMAGE,
        lambda: nn.Sequential(
            nn.ZeroPad2d(2),
            nn.Conv2d(2, 3, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(75, 5),
        ),
    ),
    "zeros on one side": (
        IMAGE,
        lambda: nn.Sequential(
            conv(),
            nn.ReLU(),
            nn.ZeroPad2d((0, 1, 3, 1)),
            nn.Conv2d(3, 4, (3, 2), stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 6 * 5, 5),
        ),
    ),
    "a scaled image, padded": (
        IMAGE,
        lambda: nn.Sequential(
            Made(lambda m, x: x * torch.tensor([[[0.5]], [[2.0]]])),
            nn.ZeroPad2d(1),
            nn.Conv2d(2, 3, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(192, 5),
        ),
    ),
    "heads side by side": (
        FEATURES,
        lambda: Made(
            lambda m, x: torch.cat([m.b(y := m.a(x).relu()), 2 * m.c(y)], 1),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 2),
            c=nn.Linear(8, 3),
        ),
    ),
}


def check(build: Build, shape: tuple[int, ...]) -> Network:
    module = seeded(build, 1)
    network = trace(module, shape, pixels=False)
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = module(x.clone())
    torch.testing.assert_close(output(network, x), wanted, rtol=1e-5, atol=1e-5)
    snn = convert(
        network, Calibration(x[None]), timesteps=64, options=NeuronOptions(percentile=99.0)
    )
    error = (output(snn, x, 256) - wanted).norm() / wanted.norm()
    assert error < 0.15, f"relative error {error:.3f}"
    return network


@pytest.mark.parametrize("name", FLATTENS)
def test_flattens(name: str) -> None:
    check(FLATTENS[name], IMAGE)


@pytest.mark.parametrize("mean", range(len(MEANS)))
def test_dueling_heads_on_shared_features_are_one_layer(mean: int) -> None:
    network = check(lambda: Dueling(MEANS[mean], hidden=False), FEATURES)
    assert [node.operation.kind for node in network.nodes] == ["input", "linear", "relu", "linear"]


def test_dueling_heads_with_hidden_layers_are_added() -> None:
    network = check(lambda: Dueling(MEANS[0], hidden=True), FEATURES)
    assert [node.operation.kind for node in network.nodes][-3:] == ["linear", "linear", "add"]


@pytest.mark.parametrize("name", AFFINE)
def test_affine_maps(name: str) -> None:
    shape, build = AFFINE[name]
    check(build, shape)


@pytest.mark.parametrize("name", OTHERS)
def test_other_idioms(name: str) -> None:
    shape, build = OTHERS[name]
    check(build, shape)


def test_normalised_pixels() -> None:
    module = seeded(
        lambda: Made(
            lambda m, x: m.b(m.a((x / 255.0 - 0.5) / 0.25).relu().view(x.size(0), -1)),
            a=nn.Conv2d(2, 3, 3),
            b=nn.Linear(108, 5),
        ),
        2,
    )
    network = trace(module, IMAGE, pixels=True)
    x = torch.randint(0, 256, (5, *IMAGE), generator=torch.Generator().manual_seed(0))
    found = output(network, x.to(torch.uint8))
    torch.testing.assert_close(found, module(x.float()).detach(), rtol=1e-5, atol=1e-5)


def test_dropped_channels_are_dropped_whole() -> None:
    module = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(8, 8, 1))
    with torch.no_grad():
        module[3].weight.copy_(torch.eye(8).view(8, 8, 1, 1))  # type: ignore[operator]
        module[3].bias.zero_()  # type: ignore[operator,union-attr]
        module[0].bias.fill_(5)  # type: ignore[operator,union-attr]
    network = trace(module.train(), IMAGE, pixels=False)
    shown: Any = output(network.train(), torch.rand(20, *IMAGE))
    empty = shown.flatten(2).eq(0)
    assert empty.all(2).eq(empty.any(2)).all() and 0 < empty.float().mean() < 1


def test_tracing_draws_no_random_numbers_of_its_own() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    torch.manual_seed(0)
    for _ in range(2):  # the network's own layers, and what they are compared with
        nn.Linear(6, 8)
        nn.Linear(8, 3)
    expected = torch.rand(3)
    torch.manual_seed(0)
    trace(module.train(), FEATURES, pixels=False)
    assert torch.equal(torch.rand(3), expected)
