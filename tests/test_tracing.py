"""Tracing torch modules: what is understood, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modules import FEATURES, IMAGE, Made, Residual, conv, output, seeded
from torch import nn
from torch.nn import functional

from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace

SUPPORTED: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "sequential": (
        FEATURES,
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)),
    ),
    "functional relu": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.b(functional.relu(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3)
        ),
    ),
    "relu method, flatten method, float": (
        IMAGE,
        lambda: Made(
            lambda m, x: m.b(m.a(x.float()).relu().flatten(1)), a=conv(), b=nn.Linear(192, 3)
        ),
    ),
    "torch.relu, torch.flatten, functional pool and dropout": (
        IMAGE,
        lambda: Made(
            lambda m, x: m.b(
                functional.dropout(
                    torch.flatten(
                        functional.avg_pool2d(torch.relu(m.a(x)), 2, stride=2), start_dim=1
                    ),
                    0.2,
                    training=False,
                )
            ),
            a=conv(),
            b=nn.Linear(48, 3),
        ),
    ),
    "batch-norm 1d, twice": (
        FEATURES,
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        ),
    ),
    "identity": (
        FEATURES,
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Identity(), nn.ReLU(), nn.Linear(8, 3)),
    ),
    "convolution options": (
        IMAGE,
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
            nn.ReLU(),
            nn.AvgPool2d((2, 3), stride=(1, 2)),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
    ),
    "residual": (IMAGE, Residual),
    "residual, in place": (IMAGE, lambda: Residual(bias=False, inplace=True)),
    "relu in place before a shortcut": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.c(m.relu(m.b(m.relu(y := m.a(x))) + y)),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 8),
            c=nn.Linear(8, 3),
            relu=nn.ReLU(inplace=True),
        ),
    ),
    "value added to itself": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.b((y := m.a(x).relu()) + y), a=nn.Linear(6, 8), b=nn.Linear(8, 3)
        ),
    ),
    "shared layer and awkward names": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.items(m.values(m.values(x).relu()).relu()),
            values=nn.Linear(6, 6),
            items=nn.Linear(6, 3),
        ),
    ),
    "a branch that leads nowhere": (
        FEATURES,
        lambda: Made(
            lambda m, x: (m.c(x), m.b(m.a(x).relu()))[1],
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 3),
            c=nn.Linear(6, 3),
        ),
    ),
    "factor on one of two uses of the input": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.c((m.a(x / 2) + m.b(x)).relu()),
            a=nn.Linear(6, 8),
            b=nn.Linear(6, 8),
            c=nn.Linear(8, 3),
        ),
    ),
    "factor on the input": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.b(m.a(0.5 * (x / 4)).relu()), a=nn.Linear(6, 8), b=nn.Linear(8, 3)
        ),
    ),
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_traced_equals_module(name: str) -> None:
    shape, build = SUPPORTED[name]
    module = seeded(build, 1)
    network = trace(module, shape, pixels=False)
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0))
    wanted = module(x.clone()).detach()
    torch.testing.assert_close(output(network, x), wanted, rtol=1e-5, atol=1e-5)
    # ... and converts to spikes that approach it
    options = NeuronOptions(threshold="channel", balance="channel", start=0.5, percentile=99.9)
    snn = convert(network, Calibration(x[None]), timesteps=256, options=options)
    error = (output(snn, x, 256) - wanted).norm() / wanted.norm()
    assert error < 0.1, f"relative error {error:.3f}"


POOLED: dict[str, Callable[[], nn.Module]] = {
    "before and behind the activation": lambda: nn.Sequential(
        conv(), nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d((2, 1)), nn.Flatten(), nn.Linear(24, 3)
    ),
    "functional": lambda: Made(
        lambda m, x: m.b(functional.max_pool2d(m.a(x).relu(), 2).flatten(1)),
        a=conv(),
        b=nn.Linear(48, 3),
    ),
}


@pytest.mark.parametrize("build", POOLED.values(), ids=POOLED)
def test_traced_max_pooling_equals_module(build: Callable[[], nn.Module]) -> None:
    module = seeded(build, 0).eval()
    x = torch.rand(5, *IMAGE)
    torch.testing.assert_close(output(trace(module, IMAGE, pixels=False), x), module(x))


@pytest.mark.parametrize("divides", [True, False])
def test_traced_pixels_equal_module(divides: bool) -> None:
    module = seeded(
        lambda: Made(
            lambda m, x: m.b(m.a(x / 255 if divides else x * (1 / 255)).relu().flatten(1)),
            a=conv(),
            b=nn.Linear(192, 3),
        ),
        2,
    )
    network = trace(module, IMAGE, pixels=True)
    x = torch.randint(0, 256, (5, *IMAGE), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        output(network, x.to(torch.uint8)), module(x.float()).detach(), rtol=1e-5, atol=1e-5
    )


def test_traced_stack_equals_module_on_stacked_frames() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 2)), 0)
    network = trace(module, (3,), pixels=False, stack=3)
    x = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0))
    y, _ = network(x, network.initial_state(4))
    torch.testing.assert_close(y[2], module(torch.cat(list(x), 1)))


def test_tracing_copies() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    network = trace(module, FEATURES, pixels=False)
    before = output(network, torch.ones(1, 6))
    for parameter in module.parameters():
        parameter.data.zero_()
    assert torch.equal(output(network, torch.ones(1, 6)), before)


@st.composite
def feed_forward(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """Any chain of convolutions, pools, batch-norm, dropout and linear layers with ReLUs."""
    size, channels = draw(st.integers(5, 9)), draw(st.integers(1, 3))
    shape, layers = (channels, size, size), list[nn.Module]()
    for _ in range(draw(st.integers(0, 2))):
        outputs, kernel = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        layers.append(nn.Conv2d(channels, outputs, kernel, padding=kernel // 2))
        layers += [nn.BatchNorm2d(outputs)] if draw(st.booleans()) else []
        layers += [nn.ReLU()]
        layers += draw(st.sampled_from([[], [nn.AvgPool2d(2)], [nn.MaxPool2d(2)], [nn.Dropout()]]))
        channels = outputs
    layers.append(nn.Flatten())
    width = nn.Sequential(*layers).eval()(torch.zeros(1, *shape)).shape[1]
    for hidden in draw(st.lists(st.integers(1, 6), max_size=2)):
        layers += [nn.Linear(width, hidden, bias=draw(st.booleans())), nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, 3)).eval(), shape


@given(drawn=feed_forward(), batch=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_any_feed_forward_module_traces_to_what_it_computes(
    drawn: tuple[nn.Module, tuple[int, ...]], batch: int
) -> None:
    module, shape = drawn
    network = trace(module, shape, pixels=False)
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        found, _ = network(x[None], network.initial_state(batch))
        torch.testing.assert_close(found[0], module(x), rtol=1e-4, atol=1e-5)
    relus = sum(isinstance(layer, nn.ReLU) for layer in module.children())
    assert sum(node.operation.kind == "relu" for node in network.nodes) == relus
    names = {name for name, _ in network.layers.items()}
    assert names <= {node.name for node in network.nodes}
