"""Temporal pruning: the schedule and the walk."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.temporal_pruning import (
    VANISHING_RATE,
    Start,
    even_split,
    rescale_leaks,
    schedule,
    temporal_pruning,
    warn_if_vanishing,
)
from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network
from snn_rl.errors import SnnRlError


@pytest.mark.parametrize(
    ("arguments", "options", "stages"),
    [
        ((5,), {}, [5, 4, 3, 2, 1]),
        ((5,), {"skip": (4, 2)}, [5, 3, 1]),
        ((5,), {"step": 2}, [5, 3, 1]),
        ((6, 1), {"step": 2}, [6, 4, 2, 1]),
        ((4, 2), {}, [4, 3, 2]),
        ((5, 1), {"step": 9}, [5, 1]),
        ((3, 3), {}, [3]),
    ],
)
def test_schedule(arguments: tuple[int, ...], options: dict[str, int], stages: list[int]) -> None:
    assert schedule(*arguments, **options) == stages  # type: ignore[arg-type]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 10))
def test_schedule_falls_from_start_to_until(start: int, until: int, step: int) -> None:
    if until > start:
        with pytest.raises(SnnRlError):
            schedule(start, until, step=step)
        return
    stages = schedule(start, until, step=step)
    assert stages[0] == start and stages[-1] == until
    assert all(0 < a - b <= step for a, b in pairwise(stages))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((5, 0), {}, "not from 5 to 0"),
        ((2, 3), {}, "not from 2 to 3"),
        ((5, 1), {"step": 0}, "step 0"),
        ((5, 1), {"skip": (5,)}, r"cannot skip \[5\].*\[4, 3, 2\]"),
        ((5, 1), {"skip": (1,)}, r"cannot skip \[1\]"),
        ((5, 1), {"skip": (7, 3)}, r"cannot skip \[7\]"),
    ],
)
def test_schedule_refuses(
    arguments: tuple[int, ...], options: dict[str, int], message: str
) -> None:
    with pytest.raises(SnnRlError, match=message):
        schedule(*arguments, **options)  # type: ignore[arg-type]


@given(st.integers(1, 10_000), st.integers(1, 20))
def test_even_split(budget: int, stages: int) -> None:
    if budget < stages:
        with pytest.raises(SnnRlError, match="cannot be split"):
            even_split(budget, stages)
        return
    shares = even_split(budget, stages)
    assert sum(shares) == budget and len(shares) == stages
    assert shares == sorted(shares, reverse=True) and shares[0] - shares[-1] <= 1


def task(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Which of two noisy prototypes of 8 features is it?"""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (128,), generator=generator)
    prototypes = torch.randn(2, 8, generator=torch.Generator().manual_seed(99))
    return prototypes[label] + 0.7 * torch.randn(128, 8, generator=generator), label


def start(leak: float = 0.5) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
        )
    options = NeuronOptions(leak_low=leak, leak_high=leak)
    return convert(
        trace(module, (8,), pixels=False),
        Calibration(task()[0][None]),
        timesteps=5,
        options=options,
    )


def accuracy(network: Network, timesteps: int) -> float:
    x, label = task(1)
    with torch.no_grad():
        y, _ = network(x[None], network.initial_state(len(x)), timesteps=timesteps)
    return float((y[0].argmax(1) == label).float().mean())


def train(start: Start) -> Network:
    """Surrogate-gradient training in place."""
    network, timesteps = start.network, start.timesteps
    x, label = task()
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(30):
        y, _ = network(x[None], network.initial_state(len(x)), timesteps=timesteps)
        optimiser.zero_grad()
        nn.functional.cross_entropy(y[0], label).backward()
        optimiser.step()
        network.constrain()
    return network


def rates(network: Network, timesteps: int) -> dict[str, float]:
    found: dict[str, float] = {}
    x, _ = task()

    def note(name: str, spikes: Tensor) -> None:
        found[name] = float(spikes.sum(1).mean())

    with torch.no_grad():
        network(x[None], network.initial_state(len(x)), timesteps=timesteps, on_spikes=note)
    return found


def snapshot(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(network: Network, values: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, values[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("rescale", [False, True])
def test_pruning_trains_and_keeps_every_stage(rescale: bool) -> None:
    network = start()
    original = snapshot(network)
    chance = accuracy(network, 5)
    trained: list[tuple[int, dict[str, Tensor]]] = []

    def trainer(begun: Start) -> Network:
        trained.append((begun.timesteps, snapshot(begun.network)))
        assert begun.spike_rates == rates(begun.network, begun.timesteps)
        return train(begun)

    kept = []
    stages = []
    for stage in temporal_pruning(
        network, schedule(5, skip=(4, 2)), trainer, rates, rescale_leak=rescale
    ):
        stages.append(stage)
        kept.append(snapshot(stage.network))
        assert stage.spike_rates == rates(stage.network, stage.timesteps)
    assert [stage.timesteps for stage in stages] == [5, 3, 1] == [t for t, _ in trained]
    assert equal(network, original), "the input was changed"
    for stage, values in zip(stages, kept, strict=True):
        assert equal(stage.network, values), f"T={stage.timesteps} was changed later"
        assert accuracy(stage.network, stage.timesteps) > max(chance, 0.85)
    # each stage starts from the parameters of the one before
    for previous, (_, begin), old, new in zip(kept[:-1], trained[1:], (5, 3), (3, 1), strict=True):
        for name, value in begin.items():
            exponent = old / new if rescale and name.endswith("leak") else 1
            torch.testing.assert_close(value, previous[name] ** exponent, rtol=0, atol=1e-6)


def test_trainer_may_return_another_network() -> None:
    """What `train` returns is the stage: best of several, a copy, anything."""
    best = start(0.5)
    stages = list(temporal_pruning(start(), [2, 1], lambda _: best, rates))
    assert [stage.network is best for stage in stages] == [True, True]


@pytest.mark.parametrize(("old", "new"), [(5, 4), (5, 1), (2, 1), (1, 4)])
def test_rescaled_leaks_keep_the_horizon(old: int, new: int) -> None:
    network = start()
    for layer in network.spiking.values():
        layer.leak.data.fill_(0.8)
    rescale_leaks(network, old, new)
    for layer in network.spiking.values():
        assert float(layer.leak.detach()) ** new == pytest.approx(0.8**old, rel=1e-5)


def test_silent_layer_is_named(caplog: pytest.LogCaptureFixture) -> None:
    network = start()
    second = list(network.spiking)[1]
    network.spiking[second].threshold.data.fill_(1e6)
    with caplog.at_level(logging.WARNING):
        next(iter(temporal_pruning(network, [2], lambda begun: begun.network, rates)))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and all(f"layer {second} " in message for message in messages)
    assert "before training at T=2" in messages[0] and "after training at T=2" in messages[1]


def test_warning_names_the_first_silent_layer_only() -> None:
    assert warn_if_vanishing({"a": 1.0, "b": 0.0, "c": 0.0}, "now") == "b"
    assert warn_if_vanishing({"a": VANISHING_RATE}, "now") is None
