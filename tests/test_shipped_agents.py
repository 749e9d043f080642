"""Every shipped agent loads, lies on its grid, and plays as its card says."""

from __future__ import annotations

import pytest
import torch

import snn_rl
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.evaluation import evaluate, evaluate_agent
from snn_rl.core.grid import snap

FRAMES, SEED = 50, 200_000_000
SPIKING = [name for name in snn_rl.zoo() if "T" in name.rpartition("/")[2]]
QUICK = [n for n in SPIKING if n.startswith(("CartPole-v1/", "PositionOnlyCartPole-v1/"))]


def test_every_kind_ships() -> None:
    assert {name.partition("/")[0] for name in snn_rl.zoo()} == {
        *("CartPole-v1", "PositionOnlyCartPole-v1", "PixelCartPole-v1", "PongNoFrameskip-v4")
    }
    assert len(QUICK) >= 8


@pytest.mark.parametrize("name", snn_rl.zoo())
def test_a_shipped_agent_begins_well(name: str) -> None:
    agent = snn_rl.load_agent(f"zoo:{name}")
    seeds, world = [SEED], trained_in(agent)
    played = evaluate(agent.actor, agent.env_id, agent.pipeline, seeds, world, max_frames=FRAMES)
    assert agent.actor.spiking == (name in SPIKING) == bool(played.spike_rates)
    assert all(0 < rate < agent.timesteps for rate in played.spike_rates.values())
    usual = agent.card["results"]["mean_reward"]
    if "CartPole" in name:
        assert played.mean == FRAMES or (usual < 150 and played.mean > 20)  # an ANN without memory
    else:
        assert played.mean >= (0 if usual > 10 else -1)  # points so far


@pytest.mark.parametrize("name", SPIKING)
def test_its_weights_lie_on_the_grid_of_its_card(name: str) -> None:
    agent = snn_rl.load_agent(f"zoo:{name}", "torch")
    network = agent.policy.network
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert snap(network, agent.timesteps) == agent.card["grid"]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", QUICK)
def test_it_has_the_score_of_its_card(name: str) -> None:
    agent = snn_rl.load_agent(f"zoo:{name}")
    known = agent.card["results"]
    played = evaluate_agent(agent, name, trials=known["trials"])
    assert played["mean_reward"] == pytest.approx(known["mean_reward"])
    assert played["spike_rate"] == pytest.approx(known["spike_rate"], rel=1e-3)
