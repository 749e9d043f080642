"""Runs that start from an agent that was trained elsewhere take it as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from short_runs import DISTILLING, Q_LEARNING
from torch import nn

import snn_rl
from snn_rl.agents.sources import imported_settings, settings_for
from snn_rl.errors import SnnRlError
from snn_rl.support.settings import merge

SHORT = {
    "env": "CartPole-v1",
    "timesteps": 1,
    "spiking": {**DISTILLING, "steps": 128},
    "validation": {"episodes": 2, "every": 512, "target": None},
}


@pytest.fixture
def imported(tmp_path: Path) -> str:
    """An imported agent that sees two frames, whose features count otherwise than here."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    agent = snn_rl.from_torch(module, "CartPole-v1", stack=2, scale=[0.3, 1, 1, 3])
    agent.save(tmp_path / "imported")
    return str(tmp_path / "imported")


def test_its_card_lies_between_preset_and_what_is_given(imported: str) -> None:
    found = settings_for({"env": "CartPole-v1", "start": imported})
    assert (found["stack"], found["maxpool"], found["teacher"]) == (2, False, "self")
    assert found["ann"] == {"epsilon": [0.5, 0.05], "learning_starts": 4096, "steps": 0}
    given = {"env": "CartPole-v1", "start": imported, "ann": {"steps": 100}, "teacher": "stack:4"}
    found = settings_for(given)
    assert found["ann"]["steps"] == 100 and found["teacher"] == "stack:4"
    base = {"env": "CartPole-v1", "ann": {"steps": 7}}
    found = settings_for({"start": imported}, base=base)
    shown = {"stack": 2, "maxpool": False, "fire_reset": False}
    assert found == {**base, "start": imported, **shown, "teacher": "self"}


def test_agents_from_here_stay_as_they_were() -> None:
    assert imported_settings("zoo:CartPole-v1/ann") == {}
    assert imported_settings(None) == {}


def test_a_run_keeps_the_ann_bit_for_bit(imported: str, tmp_path: Path) -> None:
    stages = snn_rl.train({**SHORT, "start": imported}, run_dir=tmp_path / "run")
    home, kept = snn_rl.load_agent(imported), snn_rl.load_agent(tmp_path / "run" / "ann")
    seen = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(kept.q_values(seen), home.q_values(seen))
    assert kept.card["imported"] == home.card["imported"]
    assert list(stages) == ["ann", "T1"]
    spiking = snn_rl.load_agent(tmp_path / "run" / "T1")
    assert spiking.pipeline == home.pipeline and spiking.policy.network.stack == 2
    assert spiking.card["teacher"] == "self" and not spiking.imported
    assert spiking.card["grid"]


def test_it_is_trained_on_if_that_is_asked_for(imported: str, tmp_path: Path) -> None:
    ann = {**Q_LEARNING, "steps": 256}
    snn_rl.train({**SHORT, "start": imported, "ann": ann}, run_dir=tmp_path / "run")
    trained = snn_rl.load_agent(tmp_path / "run" / "ann")
    assert trained.pipeline == snn_rl.load_agent(imported).pipeline
    assert not trained.imported and trained.card["grid"]


def test_another_environment_is_refused(imported: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = merge(SHORT, {"env": "Acrobot-v1", "start": imported})
    with pytest.raises(SnnRlError, match="does not fit Acrobot-v1"):
        snn_rl.train(settings, run_dir=tmp_path / "run")


def test_steps_are_not_the_anns(
    imported: str, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    validation = "validation={episodes: 2, every: 512, target: null}"
    run = ("--steps", "64", "--set", validation, "--timesteps", "1", "--run-dir", "run")
    status, _, err = call("train", "--env", "CartPole-v1", "--from", imported, *run)
    assert status == 0, err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["ann"]["steps"], config["spiking"]["steps"]) == (0, 64)
