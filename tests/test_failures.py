"""What goes wrong around a run: one clear sentence, a non-zero exit, nothing half-written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from snn_rl.agents.loading import load_agent

COMMAND = [sys.executable, "-m", "snn_rl", "train"]
SMALL = [
    "--timesteps", "1", "--set", "hidden=[8]", "--set", "save_every=0",
    "--set", "validation.episodes=2",
    "--set", "ann.steps=1000", "--set", "ann.num_envs=4", "--set", "ann.rollout=8",
    "--set", "ann.replay=400", "--set", "ann.learning_starts=200", "--set", "ann.n_step=3",
    "--set", "spiking.steps=256", "--set", "spiking.num_envs=4", "--set", "spiking.rollout=8",
]  # fmt: skip
SIMULATOR = '''
"""A simulator that fails now and then."""
from pathlib import Path

import gymnasium as gym
import numpy as np


class Failing(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, reward=1.0):
        self.taken, self.reward = 0, reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        self.taken += 1
        if self.taken > 150 and not Path("repaired").exists():
            if self.reward == 1.0:
                raise ConnectionError("the simulator hung up")
            return np.zeros(3, np.float32), self.reward, False, False, {}
        return np.full(3, 0.1 * action, np.float32), 1.0, self.taken % 40 == 0, False, {}


gym.register("Failing-v0", entry_point=Failing)
gym.register("Endless-v0", entry_point=Failing, kwargs={"reward": float("inf")})
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "simulator.py").write_text(SIMULATOR)
    return tmp_path


def train(folder: Path, *arguments: str, largest_file: int = 0) -> tuple[int, list[str]]:
    """Exit status and lines on stderr of `snn-rl train`, all of whose files are small if asked."""

    def limit() -> None:
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    environment = os.environ | {"COLUMNS": "80"}  # the simulator lies in the current folder
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=110, preexec_fn=limit,
    )  # fmt: skip
    assert done.stdout == ""
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.splitlines()


def test_a_dead_environment_is_named_and_the_run_goes_on_later(folder: Path) -> None:
    status, lines = train(folder, "--env", "simulator:Failing-v0", *SMALL, "--run-dir", "a run")
    assert status == 1
    assert lines[-3:] == [
        "training failed; once the cause is removed, go on with: "
        "snn-rl train --resume --run-dir 'a run' --import simulator",
        "error: simulator:Failing-v0 failed in step 31 of an episode: the simulator hung up",
        "(--debug shows where it happened)",
    ]
    assert not (folder / "a run" / "ann").exists()
    (folder / "repaired").touch()
    status, lines = train(folder, "--resume", "--run-dir", "a run")
    assert (status, len(lines)) == (2, 1)
    assert "if you trust it, add --import simulator" in lines[0]
    status, lines = train(folder, "--resume", "--run-dir", "a run", "--import", "simulator")
    assert status == 0, lines
    card = load_agent(folder / "a run" / "T1").card
    assert card["provenance"]["command"].startswith("snn-rl train --env simulator:Failing-v0")
    assert not (folder / "a run" / "resume").exists()
    assert train(folder, "--resume", "--run-dir", "a run") == (
        2, ["error: a run is finished: there is nothing to resume"],
    )  # fmt: skip


def test_a_reward_that_is_no_number(folder: Path) -> None:
    status, lines = train(folder, "--env", "simulator:Endless-v0", *SMALL)
    assert status == 2
    assert lines[-1] == (
        "error: simulator:Endless-v0 returned inf in step 31 of an episode, where Gymnasium has a "
        "finite number as the reward"
    )


@pytest.mark.parametrize("largest", [1_000, 100_000])
def test_a_full_disk(folder: Path, largest: int) -> None:
    """Files cannot grow: the configuration does not fit, or the replay does not."""
    replay = ["--set", "ann.steps=1000000", "--set", "ann.replay=100000"]
    status, lines = train(
        folder, "--env", "CartPole-v1", *SMALL, *replay, "--run-dir", "run", largest_file=largest
    )
    assert status == 1
    assert lines[-2].startswith("error: ") and "File too large" in lines[-2]
    left = {path.name for path in (folder / "run").iterdir()}
    assert left <= {"config.yaml", "resume", "owner.json", "owner.lock"}


def test_resuming_takes_no_settings(folder: Path) -> None:
    status, lines = train(folder, "--resume", "--seed", "3")
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("error: --resume takes no options but --run-dir and --import:")
    status, lines = train(folder, "--resume")
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("error: there is no run to resume below runs/")
