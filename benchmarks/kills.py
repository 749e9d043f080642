"""Kills at random moments lose nothing: the weights are those of a run that was left in peace.

    python benchmarks/kills.py --kills 100      # over all kinds of run, then 5 minutes of bursts
    python benchmarks/kills.py --only replay --kills 10 --bursts 0

Each kind of run (an ANN and spiking stages that learn from a replay; the same overlapped; a
classifier) is started as a process, ended by `kill -9` after a random time, and gone on with, until
the kills are used up; then it is left to finish and compared bit by bit. In a burst each process is
killed 3 seconds after its first roll-out or update: the run must still advance.
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

import cv2
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
VISION: dict[str, Any] = {
    "dataset": "folder", "data": "images", "image_size": 16, "workers": 0, "model": "small",
    "timesteps": 3, "step": 2, "rebalance": True, "validation": 0.1,
    "neurons": {"calibration": 32},
    "ann": {"epochs": 8, "batch": 8, "learning_rate": 0.02},
    "spiking": {"epochs": 3, "batch": 8, "learning_rate": 0.001, "distill": 0.5},
}  # fmt: skip
RUNS = {"replay": REPLAY, "overlapped": OVERLAPPED, "vision": VISION}
COMMANDS = {"vision": ["vision", "train"]}
"""That train a kind of run, where it is not `train`."""
SECONDS_AFTER_FIRST = 3.0


def draw_images(folder: Path) -> None:
    """A data set of two classes: where the bright half is, under noise."""
    generator = np.random.default_rng(0)
    for part, images in (("train", 80), ("test", 10)):
        for label, name in enumerate(("left", "right")):
            (folder / part / name).mkdir(parents=True)
            for number in range(images):
                image = generator.integers(0, 128, (24, 24, 3)).astype(np.uint8)
                image[:, 12 * label : 12 * label + 12] += 64
                cv2.imwrite(str(folder / part / name / f"{number}.png"), image)


def start(folder: Path, name: str, kind: str) -> subprocess.Popen[bytes]:
    """A process that begins the run `name`, or goes on with it."""
    begun = (folder / name / "config.yaml").exists()
    how = ["--resume"] if begun else ["--config", f"{kind}.yaml"]
    command = COMMANDS.get(kind, ["train"])
    return subprocess.Popen(
        [sys.executable, "-m", "snn_rl", *command, *how, "--run-dir", name],
        cwd=folder, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(folder: Path, name: str, kind: str) -> float:
    """Let a run end; seconds that it took."""
    began = time.monotonic()
    process = start(folder, name, kind)
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
    (folder / f"{kind}.yaml").write_text(yaml.safe_dump(RUNS[kind]))
    took = finish(folder, f"{kind}-peace", kind)
    done, killed, number = weights(folder / f"{kind}-peace"), 0, 0
    while killed < kills:
        name = f"{kind}-{number}"
        while killed < kills:
            process = start(folder, name, kind)
            try:
                process.communicate(timeout=generator.uniform(0.2, 0.5) * took)
                break  # it ended first
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
        finish(folder, name, kind)
        assert weights(folder / name) == done, f"{kind}: other weights after {killed} kills"
        left = [path for path in (folder / name).rglob(".*") if path.is_file()]
        assert not left, f"{kind}: leftovers {left}"
        number += 1
    return f"{kind}: {killed} kills over {number} runs of {took:.0f} s, all bit-identical"


def standing(run: Path) -> tuple[int, int]:
    """Finished stages, and the clock of the last save: steps, or updates."""
    stages = len(list(run.glob("*/agent.json")))
    if not (run / RESUME / STATE).exists():
        return stages, 0
    state = read_state(run / RESUME / STATE)
    return stages, state["steps"] if "steps" in state else 10**6 * state["epoch"] + state["done"]


def burst(folder: Path, kind: str, seconds: float) -> str:
    """Kill each process soon after its first roll-out; the run must advance; how far it came."""
    endless = {"epochs": 10**5} if kind in COMMANDS else {"steps": 10**7}
    long = {**RUNS[kind], "ann": {**RUNS[kind]["ann"], **endless}}
    if "save_every" in long:
        long["save_every"] = 60.0
    name = f"{kind}-long"
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(long))
    COMMANDS[name] = COMMANDS.get(kind, ["train"])
    run, reached, end, count = folder / name, [(0, 0)], time.monotonic() + seconds, 0
    while time.monotonic() < end:
        metrics = run / "metrics.jsonl"
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        process = start(folder, name, name)
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
    how_far = f"{reached[1][1]} to {reached[-1][1]}"
    return f"{kind}, bursts: {count} processes, saved at {how_far}, always further"


def main() -> None:
    """The exit status is 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", choices=RUNS)
    parser.add_argument("--bursts", type=float, default=300, help="seconds of bursts, of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    kinds = [options.only] if options.only else list(RUNS)
    with tempfile.TemporaryDirectory() as place:
        draw_images(Path(place) / "images")
        for kind in kinds:
            kills = -(-options.kills // len(kinds))
            sys.stdout.write(kill_at_random(Path(place), kind, kills, generator) + "\n")
            sys.stdout.flush()
        for kind in [kind for kind in kinds if options.bursts and kind != "overlapped"]:
            sys.stdout.write(burst(Path(place), kind, options.bursts) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
