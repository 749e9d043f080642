"""Runs that start from a saved agent's weights (--from)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import snn_rl
from snn_rl.agents.agent import Agent
from snn_rl.agents.loading import load_agent
from snn_rl.errors import ConfigError, SnnRlError

FEW: dict[str, Any] = {
    "env": "CartPole-v1",
    "hidden": [16],
    "timesteps": 2,
    "validation": {"episodes": 2, "every": 10_000},
    "ann": {
        "steps": 128, "num_envs": 4, "rollout": 8, "replay": 256, "learning_starts": 64,
        "n_step": 3, "batch": 8,
    },
    "spiking": {"steps": 64, "num_envs": 4, "rollout": 8},
}  # fmt: skip


def train(folder: Path, **changes: Any) -> dict[str, Agent]:
    return snn_rl.train({**FEW, **changes}, run_dir=folder)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose agents others start from."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    train(folder)
    return folder


def same(one: Agent, other: Agent) -> bool:
    mine, theirs = (agent.policy.network.state_dict() for agent in (one, other))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_an_ann_goes_on_from_the_given_weights(first: Path, tmp_path: Path) -> None:
    """Without an update the stage ends with the weights that it began with."""
    untrained = {**FEW["ann"], "learning_starts": 1000}
    agents = train(tmp_path / "run", seed=5, timesteps=0, start=str(first / "ann"), ann=untrained)
    assert same(agents["ann"], load_agent(first / "ann"))
    trained = train(tmp_path / "other", seed=5, timesteps=0, start=str(first / "ann"))
    assert not same(trained["ann"], load_agent(first / "ann"))


@pytest.mark.parametrize("losses", [{}, {"td": [0.0, 0.0], "distill": [1.0, 1.0]}])
def test_a_given_ann_can_be_taken_as_it_is(
    first: Path, tmp_path: Path, losses: dict[str, Any]
) -> None:
    """Also where the preset's ANN would learn from a teacher alone: this one learns nothing."""
    ann = {**FEW["ann"], "steps": 0, **losses}
    agents = train(tmp_path / "run", start=str(first / "ann"), ann=ann)
    assert same(agents["ann"], load_agent(first / "ann"))
    assert list(agents) == ["ann", "T2", "T1"]
    # The same conversion and the same training as in the run that trained this ANN itself.
    assert same(agents["T1"], load_agent(first / "T1"))


def test_a_spiking_agent_leaves_out_the_ann(first: Path, tmp_path: Path) -> None:
    start, teacher = str(first / "T2"), str(first / "ann")
    agents = train(tmp_path / "run", start=start, teacher=teacher, timesteps=1)
    assert list(agents) == ["T1"]
    assert agents["T1"].card["teacher"] == teacher
    begun = load_agent(start).policy.network.spiking["hidden1"].leak
    assert (agents["T1"].policy.network.spiking["hidden1"].leak - begun**2).abs().max() < 0.05


def test_what_cannot_be_started_from(first: Path, tmp_path: Path) -> None:
    ann, spiking = str(first / "ann"), str(first / "T2")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"start": str(tmp_path / "none")}, "no agent at"),
        ({"start": ann, "env": "Acrobot-v1"}, "does not fit Acrobot-v1"),
        ({"start": ann, "stack": 2}, "sees 1 frames: --set stack=1"),
        ({"start": spiking}, "is spiking, so this run has no ANN: name a --teacher"),
        ({"start": spiking, "timesteps": 0}, "--timesteps must be at least 1"),
    ]
    for changes, message in cases:
        with pytest.raises(SnnRlError, match=message):
            train(tmp_path / "run", **changes)
        assert not (tmp_path / "run").exists()
    none = {**FEW["ann"], "steps": 0}
    for changes, message in [
        ({"ann": none}, "no agent to start from"),
        ({"ann": none, "start": ann, "timesteps": 0}, "nothing would be trained"),
    ]:
        with pytest.raises(ConfigError, match=message):
            train(tmp_path / "run", **changes)
