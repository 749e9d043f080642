"""Roll-outs of the network as it would be saved: the same bits, whichever engine plays them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import Watcher, short

from snn_rl.agents import lowered
from snn_rl.agents.acting import Actor
from snn_rl.agents.dqn.replay import Step
from snn_rl.agents.dqn.rollout import Exploration, Rollout
from snn_rl.agents.loading import load_agent
from snn_rl.agents.policy import Policy
from snn_rl.agents.run import Run
from snn_rl.core.state import leaves
from snn_rl.envs import make_vector
from snn_rl.runs.checkpoint import WEIGHTS

STORED = {"replay": 256, "segment": 4, "burn_in": 0, "n_step": 2, "batch": 8, "td": [1.0, 1.0]}


@pytest.mark.parametrize("spiking", [{}, {"overlap": True}, STORED])
def test_a_run_has_the_same_weights_whichever_engine_plays(
    tmp_path: Path, monkeypatch: Any, spiking: dict[str, Any]
) -> None:
    config = short(
        env="PositionOnlyCartPole-v1", spiking={**spiking, "on_grid": True, "steps": 384}
    )
    event = train(config, tmp_path / "event")
    monkeypatch.setattr(lowered, "fastest", lambda policy, *_: policy)
    assert event.keys() == {"ann", "T2", "T1"}
    assert event == train(config, tmp_path / "torch")


def train(config: Any, folder: Path) -> Any:
    Run(config, folder, Watcher()).train()
    return {path.parent.name: path.read_bytes() for path in folder.glob(f"*/{WEIGHTS}")}


def test_states_are_carried_over_between_the_engines() -> None:
    """Stored, kept between calls and after the end: torch's, bit for bit."""
    policy = load_agent("zoo:PositionOnlyCartPole-v1/T3", "torch")
    event = load_agent("zoo:PositionOnlyCartPole-v1/T3", "event")
    played = [steps(policy.policy, policy, player) for player in (policy.actor, event.actor)]
    (expected, last), (found, state) = played
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one.action, other.action)
        same(one.state, other.state)
    same(last, state)


def steps(policy: Policy, agent: Any, player: Actor) -> tuple[list[Step], Any]:
    vector = make_vector(agent.env_id, 3, seed=0)
    generator = np.random.default_rng(0)
    rollout = Rollout(
        vector, agent.env_id, agent.pipeline, policy, None, generator,
        state_every=2, player=lambda: player,
    )  # fmt: skip
    stored: list[Step] = []
    for _ in range(3):
        rollout.collect(stored, 20, Exploration(0.1))
    return stored, rollout.state


def same(one: Any, other: Any) -> None:
    for a, b in zip(leaves(one), leaves(other), strict=True):
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b)
