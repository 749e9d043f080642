"""Trains one stage: roll out, update, validate, keep the best; the same loop for every network."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from snn_rl.agents.config import LearnerConfig, ValidationConfig
from snn_rl.agents.evaluation import STANDARD, Conditions, Evaluation, evaluate, validation_seeds
from snn_rl.agents.learner import Learner
from snn_rl.agents.policy import Policy
from snn_rl.agents.replay import Segment, SegmentReplay
from snn_rl.agents.rollout import Exploration, Rollout
from snn_rl.envs.observation import ObservationPipeline
from snn_rl.errors import SnnRlError
from snn_rl.grid import snap
from snn_rl.network import Network, State

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """The environment a run is about."""

    env_id: str
    pipeline: ObservationPipeline
    num_actions: int
    seed: int
    conditions: Conditions = STANDARD


@dataclass(frozen=True)
class Progress:
    """Where a stage stands; `metrics` hold losses, agreement with the teacher, spike rate."""

    stage: str
    steps: int
    total_steps: int
    updates: int
    seconds: float
    epsilon: float
    mean_reward: float | None
    validation: float | None
    metrics: dict[str, float]


class Monitor(Protocol):
    """Watches a training run."""

    def progress(self, progress: Progress) -> None:
        """Called after every roll-out."""

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        """Called after every validation."""

    def should_stop(self) -> bool:
        """True ends training after the current roll-out."""


@dataclass
class Result:
    """A trained stage: the network to keep and how it came about."""

    network: Network
    validation: float
    target_reached: bool
    steps: int
    updates: int
    seconds: float
    interrupted: bool = False
    recent: list[float] = field(default_factory=list)


def train_stage(
    name: str,
    policy: Policy,
    task: Task,
    config: LearnerConfig,
    validation: ValidationConfig,
    teacher: Policy | None,
    monitor: Monitor,
    *,
    stage_seed: int,
) -> Result:
    """Train `policy.network` in place; returns the best network on the validation seeds.

    Args:
        name: of the stage, for display.
        policy: what is trained, and how it is run.
        teacher: labels frames where the stage distils.
        stage_seed: all randomness of the stage follows from it.

    Raises:
        FloatingPointError: the gradients are not finite.
        SnnRlError: the replay is too small.
    """
    began = time.monotonic()
    generator = np.random.default_rng(stage_seed)
    envs = config.num_envs
    replay = _make_replay(config, task, teacher, policy)
    learner = Learner(
        policy.network,
        config,
        total_updates=(config.steps - config.learning_starts)
        // (config.rollout * envs)
        * config.updates,
        timesteps=policy.timesteps,
        carry_membrane=policy.carry_membrane,
    )
    length = learner.burn_in + config.segment + learner.ahead if config.replay else config.rollout
    if replay.rows < length:
        raise SnnRlError(f"{name}: replay must hold at least {length * envs} transitions")
    judge = _Judge(policy, task, validation)
    recent: list[float] = []
    steps, metrics = 0, {}
    next_validation = config.learning_starts + validation.every
    vector = task.conditions.make_vector(task.env_id, envs, stage_seed)
    try:
        rollout = Rollout(
            vector,
            task.env_id,
            task.pipeline,
            policy,
            teacher,
            generator,
            clip_rewards=config.clip_rewards,
        )
        while steps < config.steps and not judge.satisfied and not monitor.should_stop():
            odds = exploration(config, steps / config.steps)
            before = rollout.state
            finished = rollout.collect(replay, config.rollout, odds)
            recent = (recent + [episode_return for episode_return, _ in finished])[-100:]
            steps += config.rollout * envs
            if steps >= config.learning_starts and len(replay) >= length:
                for segment in _segments(replay, config, length, before, generator):
                    metrics = learner.update(segment)
            progress = Progress(
                stage=name,
                steps=steps,
                total_steps=config.steps,
                updates=learner.updates,
                seconds=time.monotonic() - began,
                epsilon=odds.epsilon,
                mean_reward=float(np.mean(recent)) if recent else None,
                validation=judge.last,
                metrics=metrics,
            )
            monitor.progress(progress)
            if steps >= next_validation or steps >= config.steps:
                next_validation = steps + validation.every
                monitor.validated(progress, judge.validate())
    finally:
        vector.close()
    if steps >= config.steps and not learner.updates:
        log.warning(
            "stage %s ended untrained: its %d steps hold no update after the first %d",
            name,
            steps,
            config.learning_starts,
        )
    return Result(
        network=judge.best or policy.network,
        validation=judge.best_mean,
        target_reached=judge.satisfied,
        steps=steps,
        updates=learner.updates,
        seconds=time.monotonic() - began,
        interrupted=monitor.should_stop(),
        recent=recent,
    )


def exploration(config: LearnerConfig, progress: float) -> Exploration:
    """Odds of random and of the teacher's actions at `progress` (0 to 1) through the stage."""
    high, low = config.epsilon
    epsilon = high + (low - high) * min(1.0, progress / config.explore)
    share = 0.0
    if config.teacher_acts > 0:
        share = max(0.0, 1 - progress / config.teacher_acts)
    return Exploration(epsilon, share)


def _segments(
    replay: SegmentReplay,
    config: LearnerConfig,
    length: int,
    state: State,
    generator: np.random.Generator,
) -> Iterator[Segment]:
    """Data of the updates after a roll-out: drawn from the replay, or the roll-out itself,
    divided among the updates by environment, from the `state` it really began in."""
    if config.replay:
        for _ in range(config.updates):
            yield replay.sample(generator, config.batch, length)
        return
    for envs in np.array_split(generator.permutation(config.num_envs), config.updates):
        yield replay.newest(length, state, envs)


def _make_replay(
    config: LearnerConfig, task: Task, teacher: Policy | None, policy: Policy
) -> SegmentReplay:
    rows = config.replay // config.num_envs if config.replay else config.rollout
    return SegmentReplay(
        config.num_envs,
        rows,
        policy.network.input_shape,
        pixels=policy.network.pixels,
        teacher_actions=task.num_actions if teacher else 0,
    )


class _Judge:
    """Validates the snapped network and keeps the best one."""

    def __init__(self, policy: Policy, task: Task, config: ValidationConfig) -> None:
        self.policy, self.task, self.config = policy, task, config
        self.best: Network | None = None
        self.best_mean = -np.inf
        self.last: float | None = None
        self.satisfied = False

    def validate(self) -> Evaluation:
        """Validate once; where the target is met, confirm it on a second set of seeds."""
        network = self.policy.network.clone()
        snap(network, self.policy.timesteps)
        result = self._play(network, 0)
        mean, target = result.mean, self.config.target
        if target is not None and mean >= target:
            second = self._play(network, 1).mean
            self.satisfied = second >= target
            mean = min(mean, second)
        self.last = mean
        if mean >= self.best_mean:
            self.best, self.best_mean = network, mean
        return result

    def _play(self, network: Network, block: int) -> Evaluation:
        policy = Policy(
            network, self.policy.timesteps, self.policy.carry_membrane, self.policy.privileged
        )
        seeds = validation_seeds(self.task.seed, self.config.episodes, block)
        task = self.task
        return evaluate(policy, task.env_id, task.pipeline, seeds, task.conditions)
