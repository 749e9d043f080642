"""The real thing at small scale: Pong through all stages by the commands that people use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snn_rl.agents.loading import load_agent
from snn_rl.errors import CheckpointError
from snn_rl.runs.resume import read_state

COMMAND = [sys.executable, "-m", "snn_rl"]
GAME = "PongNoFrameskip-v4"
STAGES = ["teacher", "ann", "T1"]
SMALL = [
    "--env", GAME, "--timesteps", "1", "--sticky", "0.25", "--set", "save_every=0",
    "--set", "validation.episodes=1", "--set", "validation.every=10000",
    *(
        f"--set={stage}.{setting}"
        for stage, settings in {
            "privileged": "steps=512 num_envs=4 replay=512 learning_starts=128 batch=8 updates=2",
            "ann": "steps=512 num_envs=4 replay=512 learning_starts=128 batch=8 updates=2",
            "spiking": "steps=256 num_envs=4",
        }.items()
        for setting in settings.split()
    ),
]  # fmt: skip


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def saved_steps(state: Path) -> int:
    """Steps in the state, 0 where there is none: it goes when its stage ends."""
    try:
        return int(read_state(state)["steps"])
    except CheckpointError:
        return 0


@pytest.mark.timeout(600)
def test_pong_goes_through_all_stages_and_a_kill(tmp_path: Path) -> None:
    train = [*COMMAND, "train", *SMALL, "--run-dir", "run"]
    process = subprocess.Popen(train, cwd=tmp_path, stderr=subprocess.DEVNULL)
    state = tmp_path / "run" / "resume" / "state.safetensors"
    while not saved_steps(state) >= 256:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run(tmp_path, "train", "--resume", "--run-dir", "run")
    assert not state.exists()

    rows = json.loads(run(tmp_path, "evaluate", "--agent", "run", "--trials", "1", "--json"))
    assert [row["stage"] for row in rows] == STAGES
    for row in rows:
        assert row["env"] == GAME
        assert -21 <= row["mean_reward"] <= 21
        assert row["lengths"][0] > 700
    spiking = rows[-1]
    assert set(spiking["spike_rates"]) == {"hidden1", "hidden2", "hidden3", "hidden4"}
    assert spiking["alpha"] > 1
    assert spiking["teacher"] == "stack:4"
    assert run(tmp_path, "report", "run").strip() == "run/report.md"
    card = load_agent(tmp_path / "run" / "T1").card
    assert card["provenance"]["command"].startswith(f"snn-rl train --env {GAME}")
