"""The rows of the energy table: touched weights against a count by hand, and what rows charge."""

from __future__ import annotations

import pytest
import torch
from graphs import node_of
from torch import Tensor, nn
from untrained import untrained_agent, untrained_ann

from snn_rl.agents.energy import measure_energies, measure_work
from snn_rl.agents.qnetwork import nature_cnn
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.tracing import trace
from snn_rl.energy.accounting import energy_report
from snn_rl.energy.costs import Costs
from snn_rl.energy.traffic import measure_traffic, touches
from snn_rl.energy.work import ann_work, source_of_costs, spiking_work

CONV = {"in_channels": 2, "out_channels": 3, "kernel_size": [3, 2], "stride": [2, 1], "padding": 1}


def test_touched_weights_of_a_convolution_are_those_of_some_product() -> None:
    torch.manual_seed(0)
    active = torch.rand(4, 2, 6, 5) < 0.1
    operation = node_of("conv", "conv", ("x",), CONV)
    weights, products = touches(operation, active)
    touched = done = 0
    padded = nn.functional.pad(active, (1, 1, 1, 1))
    for sample in padded:
        seen = set()
        for y in range(0, 8 - 2, 2):
            for x in range(7 - 1):
                for c, ky, kx in torch.nonzero(sample[:, y : y + 3, x : x + 2]).tolist():
                    seen.add((c, ky, kx))
                    done += 3
        touched += 3 * len(seen)
    assert (weights, products) == (touched, done)


def test_touched_weights_of_a_linear_layer_are_the_rows_of_its_active_inputs() -> None:
    options = {"in_features": 4, "out_features": 5}
    active = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 1]]).bool()
    assert touches(node_of("fc", "linear", ("x",), options), active) == (20, 20)


def pong(timesteps: int) -> tuple[object, Tensor]:
    torch.manual_seed(0)
    ann = trace(nature_cnn(1, 84, 6), (1, 84, 84), pixels=True)
    frames = torch.zeros(4, 1, 1, 84, 84, dtype=torch.uint8)
    frames[:, :, :, 40:50] = torch.randint(0, 256, (10, 84))
    frames[2:, :, :, 0, 0] = 7
    network = convert(ann, Calibration(frames), timesteps=timesteps)
    return network, frames


def test_the_first_layer_reads_the_changed_pixels_alone() -> None:
    network, frames = pong(2)
    found = measure_traffic(network, frames, timesteps=2)
    # One corner pixel changes once in three pairs of frames: one tap, 32 channels.
    assert found.changed == pytest.approx(1 / 3)
    assert found.changed_macs == found.weights["conv1"] == pytest.approx(32 / 3)


def test_stacked_frames_change_as_the_network_sees_them_with_zeros_before_the_first() -> None:
    torch.manual_seed(0)
    ann = trace(nature_cnn(3, 84, 6), (1, 84, 84), pixels=True, stack=3)
    frames = torch.zeros(4, 1, 1, 84, 84, dtype=torch.uint8)
    frames[:2, :, :, 0, 0], frames[2:, :, :, 0, 0] = 5, 7
    network = convert(ann, Calibration(frames), timesteps=1)
    # 0 0 5, 0 5 5, 5 5 7, 5 7 7: one pixel, two pixels less the oldest, one.
    assert measure_traffic(network, frames).changed == pytest.approx((1 + 2 + 1) / 3)


def test_every_row_follows_from_its_counts() -> None:
    network, frames = pong(2)
    spikes: dict[str, Tensor] = {}
    network(frames, timesteps=2, on_spikes=lambda name, s: spikes.update({name: s}))
    rates = {name: s.double().sum(1).mean((0, 1)) for name, s in spikes.items()}
    costs = Costs(local=0.0, main=1.0)
    report = energy_report(network, 2, rates, carry_membrane=True, costs=costs)
    traffic = measure_traffic(network, frames, timesteps=2, carry_membrane=True)
    steps, layers, wide, narrow = spiking_work(report, traffic)
    assert (steps.total, layers.total) == (report.total_pj, report.total_layerwise_pj)
    assert steps.weights == 2 * report.weights == 2 * layers.weights
    assert steps.additions == wide.additions == report.exact_acs
    behind = sum(count for name, count in traffic.weights.items() if name != "conv1")
    assert wide.weights == pytest.approx(traffic.weights["conv1"] + behind / 2)
    assert narrow.weights == pytest.approx(traffic.weights["conv1"] + behind / 4)
    assert wide.weights < report.weights
    assert wide.membranes == 2 * 2 * report.neurons
    for row in (wide, narrow):
        assert row.total == pytest.approx(row.compute + row.main)
    assert wide.main - narrow.main == pytest.approx(behind / 4)


def test_the_anns_rows() -> None:
    network, _ = pong(1)
    rates = dict.fromkeys(network.spiking, 0.1)
    report = energy_report(network, 1, rates)
    (plain, small) = ann_work(report)
    assert (plain.total, plain.compute) == (report.ann_total_pj, report.ann_pj)
    assert small.main == plain.main / 4
    assert small.compute == pytest.approx(report.macs * 0.3)
    assert small.total < plain.total


def test_agents_give_their_rows_and_an_ann_its_zeros() -> None:
    env = "PixelCartPole-v1"
    agents = {"ann": untrained_ann(env), "T2": untrained_agent(env, timesteps=2)}
    work = measure_work(agents, measure_energies(agents, 1))
    assert list(work) == ["ANN", "T2"]
    plain, skipping, _ = work["ANN"]
    assert skipping.multiplies < plain.multiplies
    assert skipping.weights <= plain.weights
    assert [row.name for row in work["T2"]][2:] == ["event-driven, int16", "event-driven, int8"]
    assert "4.6" in source_of_costs(Costs())
