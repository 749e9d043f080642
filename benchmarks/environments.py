"""Environments of every kind: each trains 2,000 steps down to T1, is killed, resumed, evaluated.

    python benchmarks/environments.py                 # all of them
    python benchmarks/environments.py --only Taxi-v4  # one

Needs `pip install minatar popgym gymnasium[box2d]` for all. Each is trained in a process
of its own, killed at a random moment, gone on with, and compared with a run that was left in
peace: their weights must be the same bits. Then a loop by hand over `snn_rl.envs.make(agent)` must
give the score of `evaluate`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from gymnasium import spaces

import snn_rl
from snn_rl.agents.agent import Agent
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.envs import make

MINATAR = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
STEPS, FRAMES, GAMES = 2000, 200, 4
SETTINGS: dict[str, Any] = {
    "timesteps": 2,
    "hidden": [16],
    "save_every": 0.2,
    "validation": {"episodes": 2, "every": 1024, "max_frames": FRAMES},
    "ann": {
        "steps": STEPS, "num_envs": 8, "rollout": 8, "replay": 1024, "learning_starts": 256,
        "n_step": 3, "batch": 16, "updates": 1,
    },
    "spiking": {"steps": STEPS, "num_envs": 8, "rollout": 8, "updates": 1},
}  # fmt: skip


class Remembering(gym.Env[Any, Any]):
    """Ends after 20 steps; the reward is 1 where the action is the last one's observation.

    One class with many spaces of observation, of which it shows samples.
    """

    def __init__(self, seen: gym.Space[Any], first: int = 0) -> None:
        self.observation_space = seen
        self.action_space = spaces.Discrete(3, start=first)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time, self.right = 0, self.action_space.start
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.int64(action)), action
        reward = float(action == self.right)
        self.time += 1
        self.right = self.action_space.start + self.time % 3
        return self.observation_space.sample(), reward, self.time == 20, False, {}


SEEN: dict[str, gym.Space[Any]] = {
    "Dict": spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2,), np.float32)}),
    "MultiDiscrete": spaces.MultiDiscrete([3, 4]),
    "MultiBinary": spaces.MultiBinary(5),
    "Integers": spaces.Box(0, 255, (6,), np.uint8),
    "Matrix": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    "Floats": spaces.Box(0, 1, (12, 9, 2), np.float32),
    "ChannelsFirst": spaces.Box(0, 255, (3, 40, 44), np.uint8),
    "Small": spaces.Box(0, 255, (11, 13), np.uint8),
    "FourChannels": spaces.Box(0, 255, (84, 84, 4), np.uint8),
}


def register_envs() -> None:
    """Environments of one's own: every kind of space, and actions that count from 5."""
    for name, space in SEEN.items():
        gym.register(f"Seen{name}-v0", Remembering, kwargs={"seen": space})
    start = {"seen": spaces.Box(-1, 1, (3,), np.float32), "first": 5}
    gym.register("StartAtFive-v0", Remembering, kwargs=start)


@dataclass(frozen=True)
class Case:
    """An environment, the module that registers it, and its constructor's arguments."""

    env: str
    module: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)


UNSTUCK = {"sticky_action_prob": 0.0}
"""MinAtar's sticky actions go on from one episode to the next: such an episode does not follow from
its seed, and a run that goes on says so."""
OWN = [*(f"Seen{name}-v0" for name in SEEN), "StartAtFive-v0"]
CASES = [
    Case("FrozenLake-v1", kwargs={"map_name": "8x8", "is_slippery": False}),
    Case("Taxi-v4"),
    Case("Blackjack-v1"),
    *(Case(f"environments:{name}", "environments") for name in OWN),
    Case("LunarLander-v3"),
    *(Case(f"minatar.gym:MinAtar/{game}-v1", "minatar.gym", UNSTUCK) for game in MINATAR),
    Case("popgym.envs:popgym-PositionOnlyCartPoleEasy-v0", "popgym.envs"),
    Case("popgym.envs:popgym-RepeatPreviousEasy-v0", "popgym.envs"),
]


def run(case: Case, folder: Path, generator: np.random.Generator) -> str:
    """Train twice, once with a kill; what came of it."""
    settings = {"env": case.env, "env_kwargs": case.kwargs, **SETTINGS}
    for name in ("peace", "killed"):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    began = time.monotonic()
    _finish(case, folder, "peace", fresh=True)
    took = time.monotonic() - began
    done = True
    while done:  # it may end before it is killed
        shutil.rmtree(folder / "killed", ignore_errors=True)
        process = _start(case, folder, "killed", fresh=True)
        took *= generator.uniform(0.4, 0.9)
        time.sleep(took)
        process.kill()
        process.communicate()
        done = (folder / "killed" / "T1" / "agent.json").exists()
    _finish(case, folder, "killed", fresh=not (folder / "killed" / "config.yaml").exists())
    for stage in ("ann", "T2", "T1"):
        one, other = (folder / name / stage / "weights.safetensors" for name in ("peace", "killed"))
        assert one.read_bytes() == other.read_bytes(), f"{case.env} {stage}: other weights"
    agent = snn_rl.load_agent(folder / "killed" / "T1")
    row = evaluate_agent(agent, case.env, trials=GAMES, max_frames=FRAMES)
    assert row["rewards"] == by_hand(agent, GAMES, FRAMES), f"{case.env}: another score by hand"
    shape = "x".join(map(str, agent.pipeline.frame_shape))
    kind = f"{agent.pipeline.kind} {shape}, engine {agent.engine}"
    return f"{kind}, score {row['mean_reward']:.2f}, killed after {took:.1f} s"


def by_hand(agent: Agent, games: int, frames: int) -> list[float]:
    """Scores of a loop that anyone would write."""
    env, scores = make(agent), []
    for seed in evaluation_seeds(0, games):
        observation, _ = env.reset(seed=seed)
        agent.reset()
        score = 0.0
        for _ in range(frames):
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            score += float(reward)
            if terminated or truncated:
                break
        scores.append(score)
    env.close()
    return scores


def _start(case: Case, folder: Path, name: str, *, fresh: bool) -> subprocess.Popen[bytes]:
    how = ["--config", f"{name}.yaml"] if fresh else ["--resume"]
    how += ["--import", case.module] if case.module else []
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "snn_rl", "train", *how, "--run-dir", name],
        cwd=folder, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE,
    )  # fmt: skip


def _finish(case: Case, folder: Path, name: str, *, fresh: bool) -> None:
    process = _start(case, folder, name, fresh=fresh)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()


def register(case: Case) -> None:
    """Have this process know the environment, too."""
    from snn_rl.envs import import_environments

    if case.module:
        import_environments(case.module)


def main() -> None:
    """Go through the cases; the exit status is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="part of an id; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    generator, failed = np.random.default_rng(options.seed), 0
    for case in CASES:
        if options.only and not any(part in case.env for part in options.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                register(case)
                sys.stdout.write(f"{case.env}: {run(case, Path(folder), generator)}\n")
            except (AssertionError, snn_rl.SnnRlError, ValueError) as error:
                failed += 1
                sys.stdout.write(f"{case.env}: FAILED: {error}\n")
        sys.stdout.flush()
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
