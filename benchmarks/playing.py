"""Steps per second of evaluation, validation and training with either engine, in turns.

    python benchmarks/playing.py [--agent zoo:ENV/STAGE ...] [--turns 5] [--frames 300]

Evaluation plays so many games side by side, for so many frames; validation does the same with the
network that it first puts on its grid. Training is the preset's own loop for the stage's T on one
core (`overlap: false`): roll-outs in torch beside `on_grid: true`. Prints steps per second of the
processor's time, which other work on the machine touches least, and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from snn_rl.agents import lowered
from snn_rl.agents.agent import Agent
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.config import ValidationConfig, make_config
from snn_rl.agents.dqn.plan import StagePlan
from snn_rl.agents.dqn.stage import StageTrainer
from snn_rl.agents.dqn.validation import Task, Validator
from snn_rl.agents.evaluation import Evaluation, evaluate
from snn_rl.agents.loading import load_agent
from snn_rl.agents.monitor import Progress
from snn_rl.agents.policy import Policy
from snn_rl.agents.presets import with_preset
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.agents.setup import Setup
from snn_rl.support.allocator import keep_freed_memory

PONG = "zoo:PongNoFrameskip-v4"
Timed = Callable[[], tuple[int, float]]
"""One turn: steps, and seconds of the processor's time."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agent", action="append")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--games", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for source in options.agent or [f"{PONG}/{stage}" for stage in ("T1", "T3", "T5")]:
        for what, event, plain in contenders(source, options.games, options.frames):
            found: tuple[list[float], list[float]] = ([], [])
            for turn in range(options.turns + 1):
                for contender, rates in zip((event, plain), found, strict=True):
                    steps, seconds = contender()
                    if turn:
                        rates.append(steps / seconds)
            fast, slow = (statistics.median(rates) for rates in found)
            print(
                f"{source}, {what}: {fast:,.0f} steps/s, torch {slow:,.0f}, x {fast / slow:.2f}",
                flush=True,
            )


def contenders(source: str, games: int, frames: int) -> Iterator[tuple[str, Timed, Timed]]:
    """What is measured, with the engine and in torch alone."""
    event, plain = load_agent(source), load_agent(source, "torch")
    played = [evaluating(agent, games, frames) for agent in (event, plain)]
    yield "evaluation", played[0], played[1]
    validated = [validating(plain, games, frames, engine) for engine in (True, False)]
    yield "validation", validated[0], validated[1]
    trained = [training(plain, on_grid) for on_grid in (True, False)]
    yield "training", trained[0], trained[1]


def evaluating(agent: Agent, games: int, frames: int) -> Timed:
    """Greedy games on the evaluation's seeds."""

    def turn() -> tuple[int, float]:
        began = time.process_time()
        found = evaluate(
            agent.actor, agent.env_id, agent.pipeline, evaluation_seeds(0, games),
            trained_in(agent), max_frames=frames,
        )  # fmt: skip
        return sum(found.lengths), time.process_time() - began

    return turn


def validating(agent: Agent, games: int, frames: int, engine: bool) -> Timed:
    """A validation as training makes it; without the engine torch plays the same network."""
    task = Task(agent.env_id, agent.pipeline, agent.num_actions, 0, trained_in(agent))
    validator = Validator(agent.policy, task, ValidationConfig(episodes=games, max_frames=frames))

    def turn() -> tuple[int, float]:
        kept = lowered.fastest
        if not engine:
            lowered.fastest = lambda policy, *_: policy
        try:
            began = time.process_time()
            found = validator.validate()
            return sum(found.lengths), time.process_time() - began
        finally:
            lowered.fastest = kept

    return turn


class _Turns:
    """A monitor that lets a stage train for some roll-outs, and counts from the second one on."""

    def __init__(self, roll_outs: int) -> None:
        self.left, self.steps, self.first = roll_outs, 0, 0
        self.began = time.process_time()

    def progress(self, progress: Progress) -> None:
        self.left, self.steps = self.left - 1, progress.steps
        if not self.first:
            self.first, self.began = progress.steps, time.process_time()

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        pass

    def should_stop(self) -> bool:
        return self.left <= 0


def training(agent: Agent, on_grid: bool) -> Timed:
    """The stage's training from the agent on, labelled by an untrained teacher."""
    changes: dict[str, Any] = {"env": agent.env_id, "device": "cpu"}
    config = make_config(with_preset(changes))
    setup, t = Setup(config), agent.timesteps
    teacher = setup.build_teacher() if config.teacher != "self" else setup.build_ann(config.stack)
    learner = config.spiking.at(t).model_copy(update={"overlap": False, "on_grid": on_grid})
    validation = config.validation.model_copy(update={"every": 10**9})

    def turn() -> tuple[int, float]:
        policy = Policy(agent.policy.network.clone(), t, config.carry_membrane)
        plan = StagePlan(f"T{t}", policy, setup.task, learner, validation, config.seed, teacher)
        turns = _Turns(5)
        StageTrainer(plan, turns).run()
        return turns.steps - turns.first, time.process_time() - turns.began

    return turn


if __name__ == "__main__":
    main()
