"""Modules that cannot be converted are refused by name, before any training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from modules import FEATURES, IMAGE, Made, conv
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.tracing import trace
from snn_rl.errors import ConversionError


def two_inputs() -> nn.Module:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    return Two()


def bare_parameter() -> nn.Module:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.offset

    return Bare()


def within(layer: nn.Module) -> Callable[[], nn.Module]:
    """The layer after a linear one."""
    return lambda: nn.Sequential(nn.Linear(6, 6), layer, nn.ReLU(), nn.Linear(6, 3))


def inside(forward: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """The function after a linear layer."""
    return lambda: Made(
        lambda m, x: m.b(forward(m.a(x)).relu()), a=nn.Linear(6, 6), b=nn.Linear(6, 3)
    )


def inside_image(forward: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """The function after a convolution."""
    return lambda: Made(lambda m, x: m.b(forward(m.a(x)).relu()), a=conv(), b=conv(1))


def images(*layers: nn.Module, size: int = 48) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(conv(), nn.ReLU(), *layers, nn.Flatten(), nn.Linear(size, 3))


REFUSED: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    r"'2' \(MaxPool2d with dilation": (IMAGE, images(nn.MaxPool2d(2, dilation=2), size=27)),
    "pooling with padding": (
        IMAGE,
        lambda: Made(lambda m, x: functional.max_pool2d(m.a(x).relu(), 2, padding=1), a=conv()),
    ),
    r"'1' \(Sigmoid\)": (FEATURES, within(nn.Sigmoid())),
    r"\(Softmax\)": (FEATURES, within(nn.Softmax(1))),
    r"\(softmax\)": (FEATURES, inside(lambda x: torch.softmax(x, 1))),
    r"\(LayerNorm\)": (FEATURES, within(nn.LayerNorm(6))),
    r"\(GRU\)": (FEATURES, lambda: Made(lambda m, x: m.rnn(x)[0], rnn=nn.GRU(6, 6))),
    r"\(tanh\)": (FEATURES, inside(torch.tanh)),
    "data-dependent branch": (FEATURES, inside(lambda x: x if x.sum() > 0 else -x)),
    "more than one input": (FEATURES, two_inputs),
    "'offset' is used as a bare parameter": (FEATURES, bare_parameter),
    "mul of two layers": (FEATURES, inside(lambda x: x * x.relu())),
    "pow": (FEATURES, inside(lambda x: x**2)),
    "mul, which is no constant factor": (FEATURES, inside(lambda x: x * x)),
    "is not linear": (
        FEATURES,
        lambda: Made(lambda m, x: (y := m.a(x.relu())) * y, a=nn.Linear(6, 3)),
    ),
    "mixes the samples of a batch": (
        FEATURES,
        lambda: Made(lambda m, x: (y := m.a(x.relu())) - y.mean(), a=nn.Linear(6, 3)),
    ),
    r"a mean from \(3, 8, 8\)": (IMAGE, inside_image(lambda x: x.mean(1, keepdim=True))),
    r"to \(3, 3, 3\)": (
        IMAGE,
        images(nn.AdaptiveAvgPool2d(3), size=27),
    ),
    "a shift before padding": (
        IMAGE,
        lambda: Made(lambda m, x: m.a(x - 0.5).relu(), a=conv()),
    ),
    "has no layer that can take": (FEATURES, inside(lambda x: (x.relu() + 1) + x)),
    "must directly precede a Conv2d": (IMAGE, images(nn.ZeroPad2d(1), size=300)),
    "addition with a factor": (FEATURES, inside(lambda x: torch.add(x, x, alpha=2))),
    "padding or ceil_mode": (IMAGE, images(nn.AvgPool2d(2, padding=1, stride=2), size=75)),
    "divisor_override": (IMAGE, images(nn.AvgPool2d(2, divisor_override=1))),
    "circular padding": (
        IMAGE,
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding_mode="circular"), nn.ReLU()),
    ),
    "reshape that keeps axes": (IMAGE, images(nn.Flatten(2), size=192)),
    "must return one tensor": (
        FEATURES,
        lambda: Made(lambda m, x: (m.a(x), x), a=nn.Linear(6, 3)),  # type: ignore[arg-type,return-value]
    ),
    "unusual parameters": (
        FEATURES,
        lambda: nn.Sequential(
            nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU()
        ),
    ),
    "unusual parameters'?": (
        FEATURES,
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU()),
    ),
    r"'_1' \(BatchNorm\) must directly follow": (
        FEATURES,
        lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)),
    ),
    r"must end in a Linear or Conv2d": (
        FEATURES,
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU()),
    ),
    "needs at least one ReLU": (FEATURES, lambda: nn.Sequential(nn.Linear(6, 8))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_converted_is_named(message: str) -> None:
    shape, build = REFUSED[message]
    with pytest.raises(ConversionError, match=message) as error:
        convert(
            trace(build().eval(), shape, pixels=False),
            Calibration(torch.rand(1, 2, *shape)),
            timesteps=1,
        )
    assert "\n" not in str(error.value)
