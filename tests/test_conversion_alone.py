"""Conversion without training: thresholds per channel, membranes that start at half of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import FEATURES, IMAGE, Residual, output, seeded
from runtimes import compiler_or_skip, runtime_or_skip
from torch import nn
from untrained import untrained_agent

import snn_rl
from snn_rl.agents.agent import Agent
from snn_rl.agents.exchange.export import Target
from snn_rl.agents.loading import load_agent
from snn_rl.agents.policy import Policy
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.grid import snap
from snn_rl.core.network import Network
from snn_rl.core.neuron import lif_step
from snn_rl.core.state import leaves
from snn_rl.envs.observation import ObservationPipeline
from snn_rl.errors import SnnRlError
from snn_rl.exchange.one_frame import OneFrame

ALONE = NeuronOptions(threshold="channel", balance="channel", start=0.5, percentile=99.9)


def dense(width: int, *, norm: bool = False) -> nn.Module:
    """Four hidden layers."""
    layers: list[nn.Module] = []
    for inputs in (6, width, width, width):
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width) if norm else nn.Identity()]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(width, 5))


def convolutions(groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=groups),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=groups),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        nn.Flatten(),
        nn.Linear(128, 24),
        nn.ReLU(),
        nn.Linear(24, 5),
    )


NETWORKS: dict[str, tuple[tuple[int, ...], int, Callable[[], nn.Module]]] = {
    "one hidden layer": (
        FEATURES,
        1,
        lambda: nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 5)),
    ),
    "four hidden layers": (FEATURES, 1, lambda: dense(32)),
    "four with batch-norm": (FEATURES, 2, lambda: dense(24, norm=True)),
    "convolutions": (IMAGE, 1, lambda: convolutions(1)),
    "in groups": (IMAGE, 3, lambda: convolutions(4)),
    "residual": (IMAGE, 1, Residual),
    "residual without biases": (IMAGE, 1, lambda: Residual(bias=False)),
}


def random_inputs(shape: tuple[int, ...], count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_random_network_approaches_its_ann_on_new_inputs(name: str) -> None:
    shape, seed, build = NETWORKS[name]
    ann = trace(seeded(build, seed), shape, pixels=False)
    known = random_inputs(shape, 2048 if len(shape) == 1 else 512, 1)
    x = random_inputs(shape, 64, 0)
    wanted = output(ann, x)
    snn = convert(ann, Calibration(known[None]), timesteps=256, options=ALONE)
    errors = [
        float((output(snn, x, steps) - wanted).norm() / wanted.norm()) for steps in (4, 16, 64, 256)
    ]
    assert errors == sorted(errors, reverse=True), errors
    assert errors[-1] <= 0.1, errors


def spiking(carry: bool, name: str = "residual") -> Network:
    """A network whose membranes start at half their thresholds, on its grid; T = 3."""
    shape, _, build = NETWORKS[name]
    ann = trace(seeded(build, 4), shape, pixels=False)
    options = NeuronOptions("channel", "channel", 0.5, 0.5, balance="channel", start=0.5)
    known = Calibration(random_inputs(shape, 64, 1)[None])
    snn = convert(ann, known, timesteps=3, carry_membrane=carry, options=options)
    snap(snn, 3)
    return snn.eval()


@pytest.mark.parametrize("carry", [False, True])
@torch.no_grad()
def test_membranes_start_at_half_their_threshold(carry: bool) -> None:
    """Against the neuron's step by hand: at the beginning, at an episode's start, every frame."""
    network = spiking(carry)
    frames, batch = 4, 3
    x = random_inputs(IMAGE, frames * batch, 2).view(frames, batch, *IMAGE)
    start = torch.zeros(frames, batch, dtype=torch.bool)
    start[2, 1] = True
    currents: dict[str, torch.Tensor] = {}
    spikes: dict[str, torch.Tensor] = {}
    _, state = network(
        x,
        network.initial_state(batch),
        start,
        on_current=lambda name, current, *_: currents.update({name: current}),
        on_spikes=lambda name, fired: spikes.update({name: fired}),
    )
    for (name, layer), after in zip(network.spiking.items(), leaves(state), strict=True):
        begun = (0.5 * layer.threshold).expand(batch, *layer.shape)
        membrane = begun
        for f in range(frames):
            anew = start[f] if carry else torch.ones_like(start[f])
            membrane = torch.where(anew.view(-1, *[1] * len(layer.shape)), begun, membrane)
            for t in range(3):
                current = currents[name][f, min(t, currents[name].shape[1] - 1)]
                fired, membrane, _ = lif_step(current, membrane, layer.threshold, layer.leak)
                assert torch.equal(fired, spikes[name][f, t])
        assert torch.equal(after, membrane)


def test_the_gradient_passes_through_the_start() -> None:
    network = spiking(False).double()
    name, layer = next(iter(network.spiking.items()))
    x = random_inputs(IMAGE, 2, 3).double()[None]
    y, _ = network(x, network.initial_state(2))
    y.sum().backward()
    whole = layer.threshold.grad
    layer.start = 0.0
    network.zero_grad()
    y, _ = network(x, network.initial_state(2))
    y.sum().backward()
    assert whole is not None and layer.threshold.grad is not None
    assert not torch.equal(whole, layer.threshold.grad), name


def test_a_saved_agent_starts_alike(tmp_path: Path) -> None:
    network = spiking(True, "four hidden layers")
    card = {"stage": "T3", "environment": {"env_id": "Made-v0", "num_actions": 5}}
    agent = Agent(Policy(network, 3), ObservationPipeline("vector", (6,)), card)
    agent.save(tmp_path / "agent")
    players = [load_agent(tmp_path / "agent", engine) for engine in ("event", "torch")]
    for player in players:
        player.reset()
        for x in random_inputs(FEATURES, 5, 5).numpy():
            assert (player.q_values(x) == agent.q_values(x)).all()
            assert player.act(x) == agent.act(x)
        agent.reset()


@pytest.mark.parametrize("carry", [False, True])
@torch.no_grad()
def test_exports_start_alike(carry: bool) -> None:
    network = spiking(carry)
    plain = OneFrame(network, 3, carry=carry)
    state, kept = network.initial_state(2), plain.example(2)[1]
    for frame in random_inputs(IMAGE, 10, 5).view(5, 2, *IMAGE):
        expected, state = network(frame[None], state)
        found, kept = plain(frame, kept)
        assert torch.equal(found, expected[0])


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize(("to", "runtimes"), [("onnx", 2), ("c", 1)])
def test_runtimes_start_alike(to: Target, runtimes: int, carry: bool, tmp_path: Path) -> None:
    runtime_or_skip("onnxruntime") if to == "onnx" else compiler_or_skip("gcc")
    agent = untrained_agent("CartPole-v1", 3, start=0.5).with_options(carry_membrane=carry)
    done = snn_rl.export(agent, tmp_path / f"agent.{to}", to, check=True, frames=40)
    assert [": exact: 40 frames" in verdict for verdict in done.verdicts] == [True] * runtimes


def test_nir_cannot_say_it(tmp_path: Path) -> None:
    runtime_or_skip("nir")
    agent = untrained_agent("CartPole-v1", start=0.5)
    first = next(iter(agent.policy.network.spiking))
    with pytest.raises(SnnRlError, match=f"'{first}': NIR cannot .* half their threshold"):
        snn_rl.export(agent, tmp_path / "agent.nir", "nir")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"start": 0.3}, "start at 0 or 0.5"), ({"balance": "channel"}, "needs threshold")],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuronOptions(**options)
