"""The energy figures against the paper's numbers and against counting every spike."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from graphs import node_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snn_rl.agents.qnetwork import mlp, nature_cnn
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.tracing import trace
from snn_rl.core.execute import run
from snn_rl.core.network import Network
from snn_rl.energy.accounting import energy_report
from snn_rl.energy.costs import Costs
from snn_rl.energy.report import EnergyReport, access_ratio
from snn_rl.errors import SnnRlError

PONG_MACS = [819_200, 2_654_208, 1_806_336, 1_605_632, 3_072]


def spiking(module: nn.Module, shape: tuple[int, ...], timesteps: int = 1) -> Network:
    torch.manual_seed(0)
    frames = torch.rand(1, 4, *shape)
    return convert(trace(module, shape, pixels=False), Calibration(frames), timesteps=timesteps)


def with_rate(network: Network, rate: float, timesteps: int = 1, **kwargs: Any) -> EnergyReport:
    return energy_report(network, timesteps, dict.fromkeys(network.spiking, rate), **kwargs)


@pytest.fixture(scope="module")
def pong() -> Network:
    return spiking(nature_cnn(1, 84, 6), (1, 84, 84))


@pytest.mark.parametrize(("rate", "timesteps", "alpha"), [(0.08, 1, 7.535), (0.42, 5, 5.227)])
def test_pong_reproduces_the_paper(
    pong: Network, rate: float, timesteps: int, alpha: float
) -> None:
    report = with_rate(pong, rate, timesteps)
    assert [layer.macs for layer in report.layers] == PONG_MACS
    assert report.layers[0].entering_rate is None
    assert [layer.entering_rate for layer in report.layers[1:]] == pytest.approx([rate] * 4)
    assert report.alpha == pytest.approx(alpha, abs=5e-4)
    assert report.mean_rate == pytest.approx(rate)
    assert report.weights == 32 * 64 + 64 * 32 * 16 + 64 * 64 * 9 + 3136 * 512 + 512 * 6
    assert report.neurons == 32 * 400 + 64 * 81 + 3136 + 512


def test_each_layer_is_weighted_with_the_rate_that_enters_it(pong: Network) -> None:
    names = list(pong.spiking)
    report = energy_report(pong, 1, dict(zip(names, (0.4, 0.3, 0.2, 0.1), strict=True)))
    assert [layer.entering_rate for layer in report.layers] == pytest.approx(
        [None, 0.4, 0.3, 0.2, 0.1]
    )
    energy = PONG_MACS[0] * 4.6 + 0.9 * sum(
        macs * rate for macs, rate in zip(PONG_MACS[1:], (0.4, 0.3, 0.2, 0.1), strict=True)
    )
    assert report.snn_pj == pytest.approx(energy)


def test_an_ann_compares_with_itself() -> None:
    report = energy_report(trace(nature_cnn(1, 84, 6), (1, 84, 84), pixels=False))
    assert report.alpha == report.alpha_exact == report.alpha_total == 1.0
    assert report.access_ratio == 1.0
    assert report.mean_rate == report.leak_multiplies == report.membrane_accesses == 0
    assert report.ann_zero_skipping_pj is None


class Residual(nn.Module):
    """Padding, strides, groups, overlapping and plain pooling, two kinds of shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.pool = nn.AvgPool2d(3, 2)
        self.inside = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.outside = nn.Conv2d(4, 6, (3, 2), stride=2, padding=1)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.read_out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.stem(x)))
        x = torch.relu(self.inside(x) + x)
        # outside is 3 x 3 and the shortcut too
        x = torch.relu(self.outside(x) + self.shortcut(x))
        x = nn.functional.avg_pool2d(x, 3)
        return self.read_out(torch.flatten(x, 1))


def run_and_count(network: Network, x: Tensor, timesteps: int) -> tuple[dict[str, Tensor], int]:
    """Spikes per position (a batch of one), and all accumulates counted one by one."""
    spikes: dict[str, Tensor] = {}

    def keep(layer: str, fired: Tensor) -> None:
        spikes[layer] = fired[0, :, 0]

    network(x, network.initial_state(1), timesteps=timesteps, on_spikes=keep)
    return {name: fired.sum(0) for name, fired in spikes.items()}, sum(
        reached(network, name, position)
        for name, fired in spikes.items()
        for position in fired.nonzero()[:, 1:].tolist()
    )


def reached(network: Network, name: str, position: list[int]) -> int:
    """Additions that one spike triggers: what a probe of ones turns non-zero, path by path."""
    probe = torch.zeros(1, *network.spiking[name].shape)
    probe[(0, *position)] = 1
    total = 0
    pending = [(node, probe) for node in network.nodes if name in node.inputs]
    while pending:
        node, value = pending.pop()
        if node.operation.kind in ("sumpool", "flatten"):
            value = run(node.operation, None, [value[None, None]], False)[0, 0]
            pending += [(n, value) for n in network.nodes if node.name in n.inputs]
        elif node.operation.kind == "scale":
            total += int(value.sum())
        else:
            layer: Any = network.layers[node.name]
            ones = {key: torch.ones_like(w) for key, w in layer.state_dict().items()}
            ones |= {"bias": torch.zeros_like(layer.bias)} if layer.bias is not None else {}
            total += int(torch.func.functional_call(layer, ones, value).sum())
    return total


@pytest.mark.parametrize("timesteps", [1, 3])
def test_exact_count_matches_counting_every_spike(timesteps: int) -> None:
    network = spiking(Residual(), (2, 11, 12), timesteps)
    x = torch.rand(1, 1, 2, 11, 12)
    rates, counted = run_and_count(network, x, timesteps)
    report = energy_report(network, timesteps, rates)
    assert counted > 300
    assert report.exact_acs == counted
    assert report.spikes == sum(int(rate.sum()) for rate in rates.values())
    scale = next(layer for layer in report.layers if layer.macs == 0)
    assert scale.acs == 0 < scale.exact_acs


def test_a_spike_before_pooling_costs_a_full_fan_out() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.Flatten()
    )
    module.append(nn.ReLU()).append(nn.Linear(16 * 16, 2))
    network = spiking(module, (1, 8, 8))
    layer = with_rate(network, 0.1).layers[1]
    assert layer.entering_rate == pytest.approx(0.1)
    assert layer.macs == 16 * 16 * 8 * 9
    # 4 x 4 outputs with padding 1 read 100 of 144 positions: 8*64 neurons, 16 channels.
    assert layer.exact_acs == pytest.approx(0.1 * 4 * 8 * 16 * 100)
    assert layer.acs == pytest.approx(0.1 * layer.macs)


def test_layers_that_read_the_observation_multiply_once_and_dense_ones_at_each_timestep() -> None:
    nodes = [
        node_of("input", "input", (), {"shape": [4], "pixels": False, "stack": 1}),
        node_of("flat", "flatten", ("input",)),
        node_of("first", "linear", ("flat",), {"in_features": 4, "out_features": 5}),
        node_of("fired", "lif", ("first",), {"shape": [5], "threshold": "layer", "leak": "layer"}),
        node_of("second", "linear", ("fired",), {"in_features": 5, "out_features": 6}),
        node_of("third", "linear", ("second",), {"in_features": 6, "out_features": 2}),
    ]
    report = with_rate(Network(nodes), 0.5, 3)
    assert [layer.snn_macs for layer in report.layers] == [20, 0, 36]
    assert [layer.acs for layer in report.layers] == [0, 15, 0]


def test_the_sum_of_two_spiking_branches_enters_with_both_rates() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(torch.relu(self.a(x)) + torch.relu(self.b(x)))
            return out

    network = spiking(Sum(), (4,))
    a, b = network.spiking
    report = energy_report(network, 1, {a: 0.2, b: 0.4})
    # the factors of the two branches can be folded into `out`: no operations of their own
    assert [layer.name for layer in report.layers] == ["a", "b", "out"]
    assert report.layers[-1].entering_rate == pytest.approx(0.6)
    assert report.exact_acs == pytest.approx(0.6 * 10)


def test_neurons_and_membranes_cost_what_they_keep() -> None:
    network = spiking(mlp(4, [10, 20], 2), (4,))
    static, carried = (with_rate(network, 0.5, carry_membrane=c) for c in (False, True))
    assert static.leak_multiplies == static.membrane_accesses == 0
    assert carried.leak_multiplies == 30
    assert carried.membrane_accesses == 60
    assert carried.threshold_subtractions == 15
    weights = 40 + 200 + 40
    assert carried.main_accesses == carried.main_accesses_layerwise == weights + 60 + 60 / 32
    three = with_rate(network, 0.5, 3)
    assert three.leak_multiplies == 60
    assert three.main_accesses == 3 * weights + 120 + 3 * 60 / 32
    assert three.main_accesses_layerwise == weights + 3 * 60 / 32
    exact = 40 * 4.6 + (0.5 * (200 + 40) + 15) * 0.9 + 30 * 3.7
    assert carried.exact_pj == pytest.approx(exact)
    buffer = (2 * 40 + 3 * 120) * 5.0
    assert carried.total_pj == pytest.approx(exact + buffer + 50 * carried.main_accesses)
    assert carried.ann_total_pj == pytest.approx(280 * (4.6 + 2 * 5.0 + 50) + 50 * 2 * 30)
    dram = with_rate(network, 0.5, carry_membrane=True, costs=Costs(main=650.0))
    assert dram.alpha == carried.alpha
    assert dram.total_pj > 5 * carried.total_pj


def test_memory_accesses_of_vgg16_over_one_timestep() -> None:
    assert access_ratio(39_920_000, 284_672, 5) == pytest.approx(5.03, abs=0.005)
    assert access_ratio(39_920_000, 284_672, 1) == 1.0


def test_ann_that_skips_zeros(pong: Network) -> None:
    names = list(pong.spiking)
    report = with_rate(pong, 0.1, densities=dict.fromkeys(names, 0.25))
    assert report.ann_zero_skipping_pj == pytest.approx(
        4.6 * (PONG_MACS[0] + 0.25 * sum(PONG_MACS[1:]))
    )
    assert [layer.density for layer in report.layers] == [1.0, 0.25, 0.25, 0.25, 0.25]


def test_report_is_json(pong: Network) -> None:
    document = json.loads(json.dumps(with_rate(pong, 0.08).to_dict()))
    assert document["alpha"] == pytest.approx(7.535, abs=5e-4)
    assert document["layers"][1]["macs"] == PONG_MACS[1]
    assert document["costs"]["mac"] == 4.6
    assert document["total_pj"] > document["exact_pj"] > 0
    assert not any(key.startswith("_") for key in document)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), torch.zeros(3)])
def test_impossible_rates_are_refused(rate: Any) -> None:
    network = spiking(mlp(4, [10], 2), (4,))
    (name,) = network.spiking
    with pytest.raises(SnnRlError, match=name):
        energy_report(network, 1, {name: rate})


def test_missing_rates_and_unknown_densities_are_refused() -> None:
    network = spiking(mlp(4, [10], 2), (4,))
    (name,) = network.spiking
    with pytest.raises(SnnRlError, match="spiking layers are"):
        energy_report(network, 1)
    with pytest.raises(SnnRlError, match="other"):
        energy_report(network, 1, {name: 0.1}, densities={"other": 0.5})
    with pytest.raises(SnnRlError, match="between 0 and 1"):
        energy_report(network, 1, {name: 0.1}, densities={name: 1.5})
    with pytest.raises(SnnRlError, match="timesteps"):
        energy_report(network, 0, {name: 0.1})


@given(
    widths=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    timesteps=st.integers(1, 6),
    rate=st.floats(0.01, 1.0),
    factor=st.floats(1.1, 3.0),
)
@settings(max_examples=25, deadline=None)
def test_energy_of_any_mlp_follows_from_its_sizes_and_rates(
    widths: list[int], timesteps: int, rate: float, factor: float
) -> None:
    network = spiking(mlp(4, widths, 2), (4,), timesteps)
    report = with_rate(network, rate * timesteps / factor, timesteps)
    sizes = [4, *widths, 2]
    macs = [a * b for a, b in pairwise(sizes)]
    assert [layer.macs for layer in report.layers] == macs
    assert report.macs == sum(macs) == report.weights
    assert report.neurons == sum(widths)
    assert report.leak_multiplies == report.neurons * (timesteps - 1)
    entering = rate * timesteps / factor
    expected = 4.6 * macs[0] + 0.9 * entering * sum(macs[1:])
    assert report.snn_pj == pytest.approx(expected)
    assert report.alpha == pytest.approx(4.6 * sum(macs) / expected)
    busier = with_rate(network, rate * timesteps, timesteps)
    assert busier.snn_pj > report.snn_pj
    assert busier.total_pj > report.total_pj
    assert report.total_pj > report.exact_pj
    assert report.main_accesses >= report.main_accesses_layerwise
