"""Every shipped agent loads and plays the beginning of a game as its card says that it plays."""

from __future__ import annotations

import pytest

import snn_rl
from snn_rl.agents.conditions import Conditions
from snn_rl.agents.evaluation import evaluate

FRAMES, SEED = 50, 200_000_000


@pytest.mark.parametrize("name", snn_rl.zoo())
def test_shipped_agents_play(name: str) -> None:
    agent = snn_rl.load_agent(f"zoo:{name}")
    card, world = agent.card, Conditions(maxpool=agent.maxpool)
    played = evaluate(agent.actor, agent.env_id, agent.pipeline, [SEED], world, max_frames=FRAMES)
    spiking = card["stage"].startswith("T")
    assert bool(played.spike_rates) == spiking
    assert all(0 < rate < agent.timesteps for rate in played.spike_rates.values())
    usual = card["results"]["mean_reward"]
    if "CartPole" in name:
        assert played.mean == FRAMES or (usual < 150 and played.mean > 20)  # an ANN without memory
    else:
        assert played.mean >= (0 if usual > 10 else -1)  # points so far
