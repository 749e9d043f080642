"""The rival with memory: a GRU that acts and learns through the same two protocols."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from snn_rl.agents.acting import Actor
from snn_rl.agents.dqn.execution import Learnable
from snn_rl.agents.policy import Policy

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("gru")


def gru(script: Any, shape: tuple[int, ...]) -> Any:
    torch.manual_seed(0)
    return script.GRU(shape, 3, hidden=[16, 12], offset=100).eval()


def frames_of(shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 3:
        return torch.randint(0, 256, (5, 2, *shape), dtype=torch.uint8)
    return torch.randn(5, 2, *shape)


@pytest.mark.parametrize("shape", [(4,), (1, 36, 36)])
@torch.no_grad()
def test_a_sequence_is_its_frames_one_by_one(script: Any, shape: tuple[int, ...]) -> None:
    network = gru(script, shape)
    x, start = frames_of(shape), torch.zeros(5, 2, dtype=torch.bool)
    start[0], start[3, 1] = True, True
    whole, last = network(x, network.initial_state(2), start)
    state, single = network.initial_state(2), []
    for frame in range(5):
        q, state = network(x[frame : frame + 1], state, start[frame : frame + 1])
        single.append(q)
    assert whole.shape == (5, 2, 3)
    torch.testing.assert_close(whole, torch.cat(single))
    torch.testing.assert_close(last, state)


@torch.no_grad()
def test_an_episode_begins_with_an_empty_memory(script: Any) -> None:
    network = gru(script, (4,))
    x, start = frames_of((4,)), torch.zeros(5, 2, dtype=torch.bool)
    start[3, 1] = True
    used = (torch.ones(2, 12),)
    q, _ = network(x, used, start)
    fresh, _ = network(x[3:], network.initial_state(2))
    torch.testing.assert_close(q[3:, 1], fresh[:, 1])
    assert (q[3:, 0] - fresh[:, 0]).abs().max() > 1e-4
    forgetful, _ = network(x, used, start, carry_membrane=False)
    alone, _ = network(x[4:], network.initial_state(2))
    torch.testing.assert_close(forgetful[4:], alone)


def test_it_learns_and_acts_without_pretending_to_spike(script: Any) -> None:
    network = gru(script, (4,))
    policy = Policy(network)
    assert isinstance(network, Learnable) and isinstance(policy, Actor)
    assert policy.remembers and not policy.spiking and not network.spiking
    q, rates, state = network.unroll(torch.randn(5, 2, 4), network.initial_state(2))
    assert q.requires_grad and rates == {} and type(state) is type(network.initial_state(2))


@torch.no_grad()
def test_its_step_is_torch_s_gru_cell(script: Any) -> None:
    network = gru(script, (4,))
    x, hidden = torch.randn(1, 6, 4), torch.randn(6, 12)
    _, (after,) = network(x, (hidden,))
    torch.testing.assert_close(after, network.cell(network.encoder(x[0]), hidden))
