"""The weight grid: exact sums in every order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.tracing import trace
from snn_rl.core.grid import EXACT, INT16, exponent, snap
from snn_rl.core.network import Network
from snn_rl.core.stacking import PIXEL_UNIT
from snn_rl.errors import SnnRlError

few = settings(max_examples=60, deadline=None, derandomize=True)


def network(seed: int = 0, gain: float = 1.0) -> Network:
    """Pixels -> conv -> sum-pool -> residual conv -> linear -> read-out, spiking."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
            self.fc1, self.fc2 = nn.Linear(36, 16), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.avg_pool2d(torch.relu(self.conv1(x / 255)), 2)
            x = torch.relu(self.conv2(x) + x)
            x = torch.relu(self.fc1(x.flatten(1)))
            y: torch.Tensor = self.fc2(x)
            return y

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Module()
        frames = torch.randint(0, 256, (1, 10, 1, 8, 8), dtype=torch.uint8)
    for parameter in module.parameters():
        parameter.data *= gain
    ann = trace(module.eval(), (1, 8, 8), pixels=True)
    return convert(ann, Calibration(frames), timesteps=4).eval()


def integers(value: torch.Tensor, k: int) -> torch.Tensor:
    scaled = value.detach().double() * 2.0**k
    assert torch.equal(scaled, scaled.round()) and float(scaled.abs().max()) <= INT16
    return scaled


@pytest.mark.parametrize("gain", [1e-3, 1.0, 40.0])
@pytest.mark.parametrize("timesteps", [1, 7])
def test_entries_are_int16_and_sums_stay_exact(gain: float, timesteps: int) -> None:
    snn = network(1, gain)
    unsnapped = snn.clone()
    exponents = snap(snn, timesteps)
    assert sorted(exponents) == sorted(
        node.name for node in snn.nodes if node.operation.kind in ("linear", "conv", "scale")
    )
    largest = {
        "conv1": (255 * PIXEL_UNIT, PIXEL_UNIT, 1),
        "conv2": (4.0, 1.0, 1),
        "fc1": (1.0, 1.0, 1),
        "fc2": (1.0, 1.0, timesteps),
    }
    for name, k in exponents.items():
        layer: Any = snn.layers[name]
        original: Any = unsnapped.layers[name]
        w = integers(layer.weight, k)
        rounding = (layer.weight - original.weight).abs().max()
        assert float(rounding.detach()) <= 0.5 * 2.0**-k
        if name not in largest:
            continue
        top, unit, sums = largest[name]
        total = w.abs().flatten(1).sum(1) * top + integers(layer.bias, k).abs()
        assert float(total.max()) * sums < EXACT * unit


@few
@given(
    outputs=st.integers(1, 4),
    inputs=st.sampled_from([1, 9, 300]),
    seed=st.integers(0, 10_000),
    scale=st.floats(-12, 8),
    bias=st.booleans(),
    entering=st.sampled_from(
        [(1.0, 1.0, 1), (1.0, 1.0, 40), (4.0, 1.0, 1), (255 / 256, 1 / 256, 1)]
    ),
)
def test_exponent_is_the_largest(
    outputs: int, inputs: int, seed: int, scale: float, bias: bool, entering: Any
) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(outputs, inputs, generator=generator) * 2.0**scale
    b = torch.randn(outputs, generator=generator) * 2.0**scale if bias else None
    largest, unit, sums = entering

    def fits(k: int) -> bool:
        rounded = (w.double() * 2.0**k).round().abs()
        shift = torch.zeros(outputs).double() if b is None else (b.double() * 2.0**k).round().abs()
        total = float((rounded.sum(1) * largest + shift).max()) * sums
        return max(float(rounded.max()), float(shift.max())) <= INT16 and total < EXACT * unit

    k = exponent(w, b, largest, unit, sums)
    assert fits(k) and not any(fits(higher) for higher in range(k + 1, k + 5))


@few
@given(
    seed=st.integers(0, 10_000),
    pixels=st.booleans(),
    outputs=st.integers(1, 3),
    inputs=st.sampled_from([64, 400]),
)
def test_every_order_of_summation_gives_the_same_bits(
    seed: int, pixels: bool, outputs: int, inputs: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(size=(outputs, inputs)).astype(np.float32))
    bias = torch.from_numpy(rng.normal(size=outputs).astype(np.float32))
    unit = PIXEL_UNIT if pixels else 1.0
    k = exponent(weight, bias, 255 * unit if pixels else 1.0, unit)
    w = np.round(weight.numpy() * 2.0**k).astype(np.float32) / np.float32(2.0**k)
    b = np.round(bias.numpy() * 2.0**k).astype(np.float32) / np.float32(2.0**k)
    x = (rng.integers(0, 256, inputs) if pixels else rng.integers(0, 2, inputs)).astype(np.float32)
    x *= np.float32(unit)
    if seed % 3 == 0:  # the worst case: every input at its largest, all of one sign
        x[:], w = x.max(), np.abs(w)
    exact = (w.astype(np.float64) @ x.astype(np.float64) + b).astype(np.float32)
    for _ in range(5):
        order = rng.permutation(inputs)
        total = b.copy()
        for n in order:
            total = total + w[:, n] * x[n]
        assert np.array_equal(total, exact)
        pairs = np.add.reduce((w * x)[:, order], axis=1) + b
        assert np.array_equal(pairs, exact)
    product = torch.nn.functional.linear(
        torch.from_numpy(x), torch.from_numpy(w), torch.from_numpy(b)
    )
    assert np.array_equal(product.numpy(), exact)


def test_without_the_grid_orders_differ() -> None:
    """What the grid is for; also shows that the test above can fail."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=400).astype(np.float32), rng.integers(0, 256, 400).astype(np.float32)
    sums = {float(np.cumsum((w * x)[rng.permutation(400)])[-1]) for _ in range(20)}
    assert len(sums) > 1


@pytest.mark.parametrize("timesteps", [1, 5])
def test_snapping_twice_changes_nothing(timesteps: int) -> None:
    for seed in range(8):
        snn = network(seed)
        snap(snn, timesteps)
        once = {name: value.clone() for name, value in snn.state_dict().items()}
        snap(snn, timesteps)
        for name, value in snn.state_dict().items():
            assert torch.equal(value, once[name]), name


def test_thresholds_and_leaks_stay() -> None:
    snn = network()
    before = {n: (a.threshold.clone(), a.leak.clone()) for n, a in snn.spiking.items()}
    snap(snn, 3)
    for name, layer in snn.spiking.items():
        assert torch.equal(layer.threshold, before[name][0])
        assert torch.equal(layer.leak, before[name][1])


def test_snapped_networks_barely_change() -> None:
    snn = network(2)
    x = torch.randint(0, 256, (1, 20, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        before, _ = snn(x, snn.initial_state(20), timesteps=5)
        snap(snn, 5)
        after, _ = snn(x, snn.initial_state(20), timesteps=5)
    assert float((after - before).norm() / before.norm()) < 0.05


def test_rounding_may_bring_an_entry_back_into_int16() -> None:
    assert exponent(torch.tensor([[(INT16 + 0.3) / 2**10]]), None, 1.0, 1.0) == 10
    assert exponent(torch.tensor([[(INT16 + 0.7) / 2**10]]), None, 1.0, 1.0) == 9


def test_zero_layers_have_a_grid() -> None:
    k = exponent(torch.zeros(2, 3), None, math.inf, 1.0)
    assert 2.0**k > 0 and math.isfinite(2.0**k)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_weights_that_are_not_finite_are_refused(bad: float, kind: str) -> None:
    snn = network()
    layer: Any = snn.layers["fc1"]
    getattr(layer, kind).data.view(-1)[0] = bad
    with pytest.raises(SnnRlError, match="not finite"):
        snap(snn, 1)
