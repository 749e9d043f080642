"""`snn-rl` in processes of its own, and a run to work on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "snn_rl"]
SMALL = [
    *("train", "--env", "CartPole-v1", "--timesteps", "2", "--set", "hidden=[16]"),
    *("--set", "validation={episodes: 2, every: 512, target: null}"),
    *("--set", "ann={steps: 512, num_envs: 8, rollout: 8, replay: 512, n_step: 3, batch: 16}"),
    *("--set", "ann={learning_starts: 128, updates: 1, target_every: 50, learning_rate: 1e-3}"),
    *("--set", "spiking={steps: 256, num_envs: 8, rollout: 8, updates: 1}"),
]


def snn_rl_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100
    )


def run_of(home: Path) -> Path:
    (run,) = (home / "runs" / "CartPole-v1").iterdir()
    return run
