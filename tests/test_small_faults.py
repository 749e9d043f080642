"""Mistakes that people make with agents and training in Python: each is named, or just works."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from short_runs import short
from test_resumed_files import IN_ANN, interrupted
from torch import nn

import snn_rl
from snn_rl.agents.config import make_config
from snn_rl.agents.setup import Setup
from snn_rl.errors import CheckpointError, SnnRlError
from snn_rl.support.files import temporary
from snn_rl.support.settings import plain
from snn_rl.vision.folders import load_tree


@pytest.fixture
def agent() -> snn_rl.Agent:
    return snn_rl.load_agent("zoo:CartPole-v1/T1")


def test_an_agent_says_what_it_is(agent: snn_rl.Agent) -> None:
    assert repr(agent) == (
        "<snn_rl.Agent for CartPole-v1: timesteps=1, 4 -> 2 actions, engine event>"
    )
    assert "ANN" in repr(snn_rl.load_agent("zoo:CartPole-v1/ann"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_device_that_is_absent_is_named_and_changes_nothing(agent: snn_rl.Agent) -> None:
    for device in ("cuda", "nothing"):
        with pytest.raises(SnnRlError, match=f"device '{device}' is not available"):
            agent.to(device)
    assert agent.engine == "event"
    agent.act(np.zeros(4, np.float32))


def test_observations_that_are_no_arrays(agent: snn_rl.Agent) -> None:
    with pytest.raises(SnnRlError, match=r"comes with its info: obs, info = env.reset\(\)"):
        agent.act(gym.make("CartPole-v1").reset(seed=0))  # type: ignore[arg-type]
    with pytest.raises(SnnRlError, match=r"Tensor torch.bfloat16\) is no array of numbers"):
        agent.act(torch.zeros(4, dtype=torch.bfloat16))  # type: ignore[arg-type]
    with pytest.raises(SnnRlError, match=r"\(list\) is no array of numbers"):
        agent.act([[1.0], [1.0, 2.0]])  # type: ignore[arg-type]
    flags = np.array([True, False, False])[::-1]
    assert agent.act(np.zeros((3, 4), np.float32), flags).shape == (3,)


def test_a_state_of_other_weights_is_refused(agent: snn_rl.Agent) -> None:
    other = snn_rl.load_agent("zoo:CartPole-v1/T2")
    for one in (agent, other):
        one.act(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="of an agent with other weights"):
        agent.state = other.state
    again = snn_rl.load_agent("zoo:CartPole-v1/T1", engine="torch")
    again.state = pickle.loads(pickle.dumps(agent.state))
    other.with_options(timesteps=1).state = copy.deepcopy(other.state)
    with pytest.raises(ValueError, match="of an agent with other weights"):
        other.state = copy.deepcopy(agent.state)


def test_names_of_several_agents_tell_the_stages(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has several stages: .*zoo:CartPole-v1/T1"):
        snn_rl.load_agent("zoo:CartPole-v1")
    for stage in ("ann", "T1"):
        snn_rl.load_agent(f"zoo:CartPole-v1/{stage}").save(tmp_path / "run" / stage)
    with pytest.raises(CheckpointError, match=r"is a run: name one of its stages, .*run/T1, .*ann"):
        snn_rl.load_agent(tmp_path / "run")


def test_settings_of_numpy_and_tuples_are_taken() -> None:
    given = {"seed": np.int64(3), "ann": {"td": (1.0, np.float32(0.5))}, "skip": np.array([2])}
    config = make_config(plain({"env": "CartPole-v1", **given}))
    assert (config.seed, config.ann.td, config.skip) == (3, [1.0, 0.5], [2])


def test_training_takes_ids_and_settings(tmp_path: Path) -> None:
    environment: Any = gym.make("CartPole-v1")
    with pytest.raises(SnnRlError, match="register the environment with Gymnasium"):
        snn_rl.train(environment)
    run = interrupted(tmp_path / "run", IN_ANN)
    assert snn_rl.train({}, run_dir=run, resume=True).keys() == {"ann", "T2", "T1"}


def test_own_weights_see_what_they_saw_elsewhere() -> None:
    """A trained network of one's own gives, as the run's ANN, its very Q-values on raw vectors."""
    torch.manual_seed(0)
    own = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    setup = Setup(short(), q_network=lambda shape, actions: own)
    seen = np.random.default_rng(0).normal(0, 1, (8, 4)).astype(np.float32)
    policy = setup.build_ann(1)
    frames = setup.pipeline.encode(seen)
    q, _ = policy.q_values(frames, policy.initial_state(8), np.ones(8, np.bool_))
    np.testing.assert_allclose(q, own(torch.from_numpy(seen)).detach().numpy(), atol=1e-6)
    assert Setup(short()).pipeline.scale != ()


def test_images_of_other_kinds_are_read_or_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cat").mkdir()
    for name in ("a.tiff", "b.TIF", "c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / "cat" / name)
    (tmp_path / "cat" / "boxes.txt").touch()
    assert len(load_tree(tmp_path)[0]) == 3
    assert caplog.text == ""
    Image.new("RGB", (4, 4)).save(tmp_path / "cat" / "d.gif")
    assert len(load_tree(tmp_path)[0]) == 3
    assert "1 files are of a kind that is not read, e.g." in caplog.text


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    """Of the same file alone, and not what a living process writes."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f".v.{dead.pid}.gif", f".v.{os.getppid()}.gif", f".w.{dead.pid}.gif"):
        (tmp_path / name).touch()
    assert temporary(tmp_path / "v.gif", ".gif") == tmp_path / f".v.{os.getpid()}.gif"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f".v.{os.getppid()}.gif", f".w.{dead.pid}.gif"}
    (tmp_path / f".x.png.{dead.pid}").touch()
    assert temporary(tmp_path / "x.png") == tmp_path / f".x.png.{os.getpid()}"
    assert not (tmp_path / f".x.png.{dead.pid}").exists()
