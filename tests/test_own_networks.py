"""Q-networks of one's own, from training to T1, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from short_runs import short
from torch import Tensor, nn

import snn_rl
from snn_rl.agents.loading import load_agent
from snn_rl.errors import ConversionError


class Residual(nn.Module):
    """A Q-network of one's own."""

    def __init__(self, features: int, actions: int) -> None:
        super().__init__()
        self.begin = nn.Linear(features, 12)
        self.inner = nn.Linear(12, 12)
        self.relu = nn.ReLU()
        self.end = nn.Linear(12, actions)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.begin(x))
        y: Tensor = self.end(self.relu(self.inner(x) + x))
        return y


def test_a_q_network_of_ones_own(tmp_path: Path) -> None:
    asked: list[tuple[tuple[int, ...], int]] = []

    def build(shape: tuple[int, ...], actions: int) -> nn.Module:
        asked.append((shape, actions))
        return Residual(shape[0], actions)

    agents = snn_rl.train(short(), run_dir=tmp_path / "run", q_network=build)
    assert set(asked) == {((4,), 2)}
    assert list(agents) == ["ann", "T2", "T1"]
    for name, agent in agents.items():
        loaded = load_agent(tmp_path / "run" / name)
        assert any(node.operation.kind == "add" for node in loaded.policy.network.nodes)
        assert loaded.act(np.zeros(4, np.float32)) == agent.act(np.zeros(4, np.float32))


def test_a_q_network_that_cannot_become_spikes_is_refused_by_name(tmp_path: Path) -> None:
    def build(shape: tuple[int, ...], actions: int) -> nn.Module:
        return nn.Sequential(nn.Linear(shape[0], 8), nn.Tanh(), nn.Linear(8, actions))

    with pytest.raises(ConversionError, match="Tanh"):
        snn_rl.train(short(), run_dir=tmp_path / "run", q_network=build)
