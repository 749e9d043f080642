"""A run's folder has one owner: starts and resumes at once give the weights of a run alone.

    python benchmarks/owners.py --starts 8 --rounds 20     # of agents and of classifiers

First so many processes start in one second, without a folder being named: each must train in one
of its own, to the weights of its seed. Then a run is killed, and two processes go on with it at
once, or one goes on and another starts anew in its folder; one of them must be refused in one
sentence. The other is killed at random, for the next two. In the end the run's weights must be
those of one alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from kills import COMMANDS, RUNS, draw_images, finish, start, weights

from snn_rl.runs.resume import RESUME, STATE

KINDS = ("replay", "vision")
SMALLER: dict[str, dict[str, Any]] = {
    "replay": {"ann": {"steps": 6000}, "spiking": {"steps": 2000}},
    "vision": {"ann": {"epochs": 3}, "spiking": {"epochs": 1}},
}
REFUSALS = ("is being trained by process", "already holds a run", "is finished")


def at_once(folder: Path, kind: str, count: int) -> str:
    """Start so many processes at once, of two seeds; what came of it."""
    command = [sys.executable, "-m", "snn_rl", *COMMANDS.get(kind, ["train"])]
    options = ["--config", f"{kind}.yaml", "--seed"]
    processes = [
        subprocess.Popen(
            [*command, *options, str(i % 2)], cwd=folder, stderr=subprocess.PIPE, text=True
        )
        for i in range(count)
    ]
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    runs = [path.parent for path in (folder / "runs").rglob("config.yaml")]
    assert len(runs) == count, runs
    by_seed: dict[int, list[dict[str, bytes]]] = {0: [], 1: []}
    for run in runs:
        made = json.loads((run / "ann" / "agent.json").read_text())["provenance"]
        by_seed[made["seed"]].append(weights(run))
    alone = weights(folder / f"{kind}-alone")
    assert all(found == alone for found in by_seed[0]), "other weights than alone"
    assert all(found == by_seed[1][0] != alone for found in by_seed[1]), "other weights of seed 1"
    return f"{kind}: {count} starts at once, {len(runs)} folders, each with its seed's weights"


def fresh(folder: Path, name: str, kind: str) -> subprocess.Popen[bytes]:
    """A process that begins a run in a folder that holds one."""
    command = [sys.executable, "-m", "snn_rl", *COMMANDS.get(kind, ["train"])]
    return subprocess.Popen(
        [*command, "--config", f"{kind}.yaml", "--run-dir", name], cwd=folder,
        env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def contend(folder: Path, kind: str, rounds: int, generator: np.random.Generator) -> str:
    """So many pairs of processes in a run's folder; what came of it."""
    alone, done, number = weights(folder / f"{kind}-alone"), 0, 0
    while done < rounds:
        name = f"{kind}-{number}"
        _killed_once_saved(folder, name, kind)
        finished = False
        while done < rounds and not finished:
            second = fresh if done % 4 == 3 else start
            pair = [start(folder, name, kind), second(folder, name, kind)]
            while all(process.poll() is None for process in pair):
                time.sleep(0.02)
            done += 1
            time.sleep(generator.uniform(0, 3))
            ended = [process for process in pair if process.poll() is not None]
            finished, said = any(process.returncode == 0 for process in ended), []
            for process in pair:
                if not finished:
                    process.kill()
                _, err = process.communicate()
                if process in ended and process.returncode != 0:
                    said.append(err.decode().splitlines()[-1])
                    assert process.returncode == 2, err
                    assert any(text in said[-1] for text in REFUSALS), err
            # Or the pair before was killed between the last stage's save and its end.
            finished |= any("is finished" in text for text in said)
            assert finished or len(ended) == 1, f"both were refused: {said}"
        finish(folder, name, kind)
        assert weights(folder / name) == alone, f"other weights after {done} pairs"
        number += 1
    return f"{kind}: {done} pairs in {number} runs, one refused each, all bit-identical"


def _killed_once_saved(folder: Path, name: str, kind: str) -> None:
    process = start(folder, name, kind)
    while process.poll() is None and not (folder / name / RESUME / STATE).exists():
        time.sleep(0.02)
    process.kill()
    process.communicate()


def main() -> None:
    """The exit status is 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for kind in [given.only] if given.only else KINDS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            draw_images(folder / "images")
            stages = {k: {**RUNS[kind][k], **v} for k, v in SMALLER[kind].items()}
            (folder / f"{kind}.yaml").write_text(yaml.safe_dump({**RUNS[kind], **stages}))
            finish(folder, f"{kind}-alone", kind)
            generator = np.random.default_rng(given.seed)
            sys.stdout.write(at_once(folder, kind, given.starts) + "\n")
            sys.stdout.write(contend(folder, kind, given.rounds, generator) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
