"""Damaged agents and runs: nothing is executed, nothing hangs, nothing is silently wrong.

    python benchmarks/fuzz.py --agents 2000 --runs 300 [--seed 0]

Each case is a copy of a shipped agent, or of a run that was interrupted, with one thing changed: a
type, a number or a part of the graph in the card; bits, types or sizes of weights, with a digest
that fits or not; links, pipes and truncations of files. It is loaded, acts and is scored in a
process of its own, with a cap on memory and time. Either it is refused in one sentence, or it is
right: an agent acts for 100 frames as a plain NumPy interpreter of its card says, exactly where it
spikes and to 1e-4 where not; a run ends with the weights of the undamaged one.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from card_interpreter import Interpreter
from damage import CANARY, mutate_agent, mutate_file

import snn_rl
from snn_rl.agents.config import make_config
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.run import Run
from snn_rl.envs import UnsupportedEnvironment
from snn_rl.runs.folder import Interrupted
from snn_rl.support.settings import read_yaml

AGENTS = (
    "CartPole-v1/T1", "CartPole-v1/ann", "PositionOnlyCartPole-v1/T1", "PixelCartPole-v1/T1",
)  # fmt: skip
FRAMES, SECONDS, BYTES = 100, 60, 2**30
RUN = {
    "env": "PositionOnlyCartPole-v1", "timesteps": 1, "hidden": [8], "save_every": 0.0,
    "validation": {"episodes": 2, "every": 256, "max_frames": 50},
    "ann": {
        "steps": 512, "num_envs": 4, "rollout": 8, "replay": 160, "learning_starts": 64,
        "n_step": 3, "batch": 8, "updates": 1,
    },
    "spiking": {
        "steps": 256, "num_envs": 4, "rollout": 8, "replay": 64, "segment": 3, "burn_in": 2,
        "n_step": 2, "batch": 4, "td": [1.0, 0.5], "learning_starts": 64,
    },
}  # fmt: skip


class StopAfter:
    """A monitor that asks to stop after a number of roll-outs."""

    def __init__(self, roll_outs: int) -> None:
        self.left = roll_outs

    def progress(self, progress: Any) -> None:
        """Count."""
        self.left -= 1

    def validated(self, progress: Any, evaluation: Any) -> None:
        """Nothing to do."""

    def should_stop(self) -> bool:
        """Whether they are over."""
        return self.left <= 0


def try_agent(folder: Path, generator: np.random.Generator) -> str:
    """Load, act, be scored: "refused", or "right". Raises whatever is against the promise."""
    try:
        agent = snn_rl.load_agent(folder)
        oracle, pipeline = Interpreter(folder), agent.pipeline
        for _ in range(FRAMES):
            if pipeline.pixels:
                seen = generator.integers(0, 256, pipeline.frame_shape).astype(np.uint8)
            else:
                seen = generator.normal(0, 0.5, pipeline.raw_shape).astype(np.float32)
            if agent.actor.privileged:
                seen = generator.normal(0, 0.5, agent.actor.input_shape).astype(np.float32)
            frame = seen if agent.actor.privileged else pipeline.encode(seen[None])[0]
            q, expected = agent.q_values(seen).reshape(-1), oracle.q_values(frame)
            assert np.isfinite(q).all(), "Q-values that are not finite"
            same = np.array_equal(q, expected)
            if not (same if oracle.spiking else np.allclose(q, expected, rtol=1e-4, atol=1e-4)):
                raise AssertionError(f"it acts by {q}, its card says {expected}")
        evaluate_agent(agent, "fuzzed", trials=1, max_frames=20)
    except (snn_rl.SnnRlError, UnsupportedEnvironment) as error:
        assert "\n" not in str(error), "more than a sentence"
        return "refused"
    return "right"


def try_run(folder: Path, expected: dict[str, bytes]) -> str:
    """Go on with a run: "refused", or "right"."""
    try:
        Run(make_config(read_yaml(folder / "config.yaml")), folder, StopAfter(10**9)).train()
    except (snn_rl.SnnRlError, UnsupportedEnvironment, OSError) as error:
        assert "\n" not in str(error), "more than a sentence"
        return "refused"
    assert weights(folder) == expected, "other weights than the run that nobody touched"
    return "right"


def weights(folder: Path) -> dict[str, bytes]:
    """Files of weights of a finished run, by stage."""
    return {stage: (folder / stage / "weights.safetensors").read_bytes() for stage in ("ann", "T1")}


def apart(work: Callable[[], str], folder: Path) -> str:
    """The outcome of `work` in a process of its own: "refused", "right", or what went wrong."""
    note = folder / "outcome.txt"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
            note.write_text(work())
            status = 0
        except BaseException:
            note.write_text(traceback.format_exc(limit=-3))
        finally:
            os._exit(status)
    end = time.monotonic() + SECONDS
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"it hung for {SECONDS} s"
        time.sleep(0.005)
    return note.read_text() if note.exists() else "it crashed"


def fuzz_agents(count: int, seed: int, room: Path) -> tuple[collections.Counter[str], list[str]]:
    """Outcomes by kind, and what was wrong, of so many agents."""
    outcomes: collections.Counter[str] = collections.Counter()
    wrong = []
    for agent in AGENTS:  # whatever is compiled or imported, is so once
        snn_rl.load_agent(f"zoo:{agent}").save(room / agent)
        assert try_agent(room / agent, np.random.default_rng(0)) == "right", agent
    for case in range(count):
        generator = np.random.default_rng([seed, case])
        with tempfile.TemporaryDirectory(dir=room) as place:
            folder = Path(place) / "agent"
            shutil.copytree(room / AGENTS[case % len(AGENTS)], folder)
            what = mutate_agent(folder, generator)
            outcome = apart(lambda f=folder, g=generator: try_agent(f, g), Path(place))  # type: ignore[misc]
        if (room / CANARY).exists():
            outcome = "it executed code"
            (room / CANARY).unlink()
        known = outcome in ("refused", "right")
        outcomes[outcome if known else "wrong"] += 1
        wrong += [] if known else [f"agent {case} ({what}): {outcome}"]
    return outcomes, wrong


def fuzz_runs(count: int, seed: int, room: Path) -> tuple[collections.Counter[str], list[str]]:
    """The same of so many runs, interrupted in either stage."""
    outcomes: collections.Counter[str] = collections.Counter()
    wrong, config = [], make_config(RUN)
    Run(config, room / "whole", StopAfter(10**9)).train()
    expected, bases = weights(room / "whole"), []
    for roll_outs in (9, 20):
        bases.append(room / f"stopped{roll_outs}")
        try:
            Run(config, bases[-1], StopAfter(roll_outs)).train()
        except Interrupted:
            continue
        raise AssertionError("the run ended before it was to be interrupted")
    for case in range(count):
        generator = np.random.default_rng([seed, case])
        with tempfile.TemporaryDirectory(dir=room) as place:
            folder = Path(place) / "run"
            shutil.copytree(bases[case % len(bases)], folder)
            files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "owner.lock")
            victim = files[int(generator.integers(len(files)))]
            what = f"{victim.relative_to(folder)}: {mutate_file(victim, generator)}"
            outcome = apart(lambda f=folder: try_run(f, expected), Path(place))  # type: ignore[misc]
        known = outcome in ("refused", "right")
        outcomes[outcome if known else "wrong"] += 1
        wrong += [] if known else [f"run {case} ({what}): {outcome}"]
    return outcomes, wrong


def fuzz(agents: int, runs: int, seed: int) -> list[str]:
    """What was wrong with so many of both; says how they came out."""
    torch.set_num_threads(1)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        room = Path(place)
        (room / f"{CANARY}.py").write_text(f"open({str(room / CANARY)!r}, 'w').close()\n")
        sys.path.append(place)
        for name, work, count in (("agents", fuzz_agents, agents), ("runs", fuzz_runs, runs)):
            if count:
                outcomes, found = work(count, seed, room)
                wrong += found
                sys.stdout.write(f"{count} {name}: {dict(outcomes)}\n")
        sys.path.remove(place)
    return wrong


def main() -> None:
    """The exit status is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = fuzz(options.agents, options.runs, options.seed)
    sys.stdout.write("".join(f"{text}\n" for text in wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
