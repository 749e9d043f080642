"""Kills at random moments lose nothing: the weights are those of a run that was left in peace.

    python benchmarks/kills.py --kills 100      # over all kinds of run, then 5 minutes of bursts
    python benchmarks/kills.py --only replay --kills 10 --bursts 0

Each kind of run (an ANN and spiking stages that learn from a replay; the same overlapped) is
started as a process, ended by `kill -9` after a random time, and gone on with, until the kills are
used up; then it is left to finish and compared bit by bit. In a burst each process is killed 3
seconds after its first roll-out: the run must still advance.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from snn_rl.runs.resume import RESUME, STATE, read_state

REPLAY: dict[str, Any] = {
    "env": "PositionOnlyCartPole-v1", "timesteps": 2, "hidden": [16], "save_every": 0.2,
    "validation": {"episodes": 2, "every": 4096, "max_frames": 100},
    "ann": {
        "steps": 24_000, "num_envs": 8, "rollout": 8, "replay": 2048, "learning_starts": 256,
        "n_step": 3, "batch": 16, "updates": 1,
    },
    "spiking": {
        "steps": 8_000, "num_envs": 8, "rollout": 8, "replay": 1024, "segment": 4, "burn_in": 2,
        "n_step": 2, "batch": 8, "td": [1.0, 0.5], "learning_starts": 128, "updates": 1,
    },
}  # fmt: skip
OVERLAPPED = {
    **REPLAY,
    "ann": {**REPLAY["ann"], "overlap": True},
    "spiking": {**REPLAY["spiking"], "overlap": True},
}
RUNS = {"replay": REPLAY, "overlapped": OVERLAPPED}
SECONDS_AFTER_FIRST = 3.0


def start(folder: Path, name: str, config: str) -> subprocess.Popen[bytes]:
    """A process that begins the run `name`, or goes on with it."""
    begun = (folder / name / "config.yaml").exists()
    how = ["--resume"] if begun else ["--config", config]
    return subprocess.Popen(
        [sys.executable, "-m", "snn_rl", "train", *how, "--run-dir", name],
        cwd=folder, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(folder: Path, name: str, config: str) -> float:
    """Let a run end; seconds that it took."""
    began = time.monotonic()
    process = start(folder, name, config)
    _, err = process.communicate()
    assert process.returncode == 0 or b"is finished" in err, err.decode()
    return time.monotonic() - began


def weights(run: Path) -> dict[str, bytes]:
    """Files of weights by stage."""
    found = {path.parent.name: path.read_bytes() for path in run.glob("*/weights.safetensors")}
    assert found, f"{run} holds no stage"
    return found


def kill_at_random(folder: Path, kind: str, kills: int, generator: np.random.Generator) -> str:
    """Kill a run so often, let it end and compare; what came of it."""
    config = f"{kind}.yaml"
    (folder / config).write_text(yaml.safe_dump(RUNS[kind]))
    took = finish(folder, f"{kind}-peace", config)
    done, killed, number = weights(folder / f"{kind}-peace"), 0, 0
    while killed < kills:
        name = f"{kind}-{number}"
        while killed < kills:
            process = start(folder, name, config)
            try:
                process.communicate(timeout=generator.uniform(0.2, 0.5) * took)
                break  # it ended first
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
        finish(folder, name, config)
        assert weights(folder / name) == done, f"{kind}: other weights after {killed} kills"
        left = [path for path in (folder / name).rglob(".*") if path.is_file()]
        assert not left, f"{kind}: leftovers {left}"
        number += 1
    return f"{kind}: {killed} kills over {number} runs of {took:.0f} s, all bit-identical"


def standing(run: Path) -> tuple[int, int]:
    """Finished stages, and steps of the last save."""
    stages = len(list(run.glob("*/agent.json")))
    state = run / RESUME / STATE
    return stages, read_state(state)["steps"] if state.exists() else 0


def burst(folder: Path, seconds: float) -> str:
    """Kill each process soon after its first roll-out; the run must advance; how far it came."""
    long = {**REPLAY, "save_every": 60.0, "ann": {**REPLAY["ann"], "steps": 10**7}}
    (folder / "burst.yaml").write_text(yaml.safe_dump(long))
    run, reached, end, count = folder / "burst", [(0, 0)], time.monotonic() + seconds, 0
    while time.monotonic() < end:
        process = start(folder, "burst", "burst.yaml")
        metrics = run / "metrics.jsonl"
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        while process.poll() is None:
            if metrics.exists() and metrics.stat().st_mtime_ns > before:
                break
            time.sleep(0.02)
        time.sleep(SECONDS_AFTER_FIRST)
        process.kill()
        process.communicate()
        count += 1
        reached.append(standing(run))
    assert all(a < b for a, b in pairwise(reached[1:])), reached
    return f"burst: {count} processes, steps {reached[1][1]} to {reached[-1][1]}, always further"


def main() -> None:
    """The exit status is 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", choices=RUNS)
    parser.add_argument("--bursts", type=float, default=300, help="seconds of bursts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    kinds = [options.only] if options.only else list(RUNS)
    with tempfile.TemporaryDirectory() as place:
        for kind in kinds:
            kills = -(-options.kills // len(kinds))
            sys.stdout.write(kill_at_random(Path(place), kind, kills, generator) + "\n")
            sys.stdout.flush()
        if options.bursts:
            sys.stdout.write(burst(Path(place), options.bursts) + "\n")


if __name__ == "__main__":
    main()
