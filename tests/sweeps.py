"""Sweeps of short runs, and the uninterrupted runs that they are compared with; shared by tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from commands import COMMAND

from snn_rl.agents.sweep.manifest import Sweep, make_sweep
from snn_rl.runs.owner import OWNER
from snn_rl.runs.resume import RESUME, STATE

SETTINGS: dict[str, Any] = {
    "env": "CartPole-v1",
    "timesteps": 1,
    "hidden": [8],
    "save_every": 0.0,
    "validation": {"episodes": 2, "every": 512},
    "ann": {
        "steps": 3072, "num_envs": 8, "rollout": 8, "replay": 512, "learning_starts": 128,
        "n_step": 3, "batch": 16, "updates": 1,
    },
    "spiking": {"steps": 2048, "num_envs": 8, "rollout": 8, "warmup": 2},
}  # fmt: skip


def written(folder: Path, seeds: int = 2, **grid: Any) -> Sweep:
    sweep = make_sweep(folder, SETTINGS, range(seeds), grid, "test")
    sweep.write()
    return sweep


def weights(run: Path) -> dict[str, bytes]:
    return {stage: (run / stage / "weights.safetensors").read_bytes() for stage in ("ann", "T1")}


def generation(run: Path) -> int:
    """How often the run has been owned."""
    found: int = json.loads((run / OWNER).read_text())["generation"]
    return found


def worker_of(run: Path) -> int:
    """The process that trains in the folder."""
    found: int = json.loads((run / OWNER).read_text())["process"]
    return found


def wait_until(condition: Any, seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.02)


def saved(run: Path) -> bool:
    """Whether a resume would go on from within a stage."""
    return (run / RESUME / STATE).exists()


def resuming(folder: Path, *options: str) -> subprocess.Popen[str]:
    """`snn-rl sweep --resume` in a process of its own."""
    return subprocess.Popen(
        [*COMMAND, "sweep", "--resume", "--out", str(folder), *options],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def uninterrupted(folder: Path, sweep: Sweep) -> dict[str, dict[str, bytes]]:
    """Weights by cell of the same runs trained one after the other by `snn-rl train`."""
    found = {}
    for cell in sweep.cells:
        run = folder / cell.name
        copy = written_run(run, sweep.path(cell))
        command = [*COMMAND, "train", "--resume", "--run-dir", str(copy)]
        subprocess.run(command, check=True, capture_output=True, timeout=200)
        found[cell.name] = weights(copy)
    return found


def written_run(to: Path, of: Path) -> Path:
    """A run of the same settings that nothing was trained in."""
    to.mkdir(parents=True)
    (to / "config.yaml").write_bytes((of / "config.yaml").read_bytes())
    return to


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
