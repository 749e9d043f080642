"""Trains one stage: roll out, update, validate, keep the best; the same loop for every network."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Result:
    """A trained stage: the network to keep and how it came about."""

    network: Network
    validation: float
    target_reached: bool
    steps: int
    updates: int
    seconds: float
    interrupted: bool


class StageTrainer:
    """Trains one stage: call `run` once.

    All randomness follows from `stage_seed`; all that changes between roll-outs is in attributes.

    Args:
        name: of the stage, for display.
        policy: how the network is run; `policy.network` is trained in place.
        teacher: labels frames where the stage distils.

    Raises:
        SnnRlError: the replay is too small.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        task: Task,
        config: LearnerConfig,
        validation: ValidationConfig,
        teacher: Policy | None,
        monitor: Monitor,
        *,
        stage_seed: int,
    ) -> None:
        self.name, self.task, self.config, self.monitor = name, task, config, monitor
        self.policy, self.teacher, self.stage_seed = policy, teacher, stage_seed
        self.validate_every = validation.every
        self.next_validation = config.learning_starts + validation.every
        self.generator = np.random.default_rng(stage_seed)
        self.judge = Judge(policy, task, validation)
        roll_outs = (config.steps - config.learning_starts) // (config.rollout * config.num_envs)
        self.learner = Learner(
            policy.network,
            config,
            total_updates=roll_outs * config.updates,
            timesteps=policy.timesteps,
            carry_membrane=policy.carry_membrane,
        )
        self.length = config.rollout
        if config.replay:
            self.length = self.learner.burn_in + config.segment + self.learner.ahead
        self.replay = self._make_replay()
        self.steps = 0
        self.recent: deque[float] = deque(maxlen=100)  # returns of the last training episodes
        self.metrics: dict[str, float] = {}

    def run(self) -> Result:
        """Train until the target is met, the steps are used up or the monitor asks to stop.

        Raises:
            FloatingPointError: the gradients are not finite.
        """
        began = time.monotonic()
        config, task = self.config, self.task
        vector = task.conditions.make_vector(task.env_id, config.num_envs, self.stage_seed)
        try:
            rollout = Rollout(
                vector,
                task.env_id,
                task.pipeline,
                self.policy,
                self.teacher,
                self.generator,
                clip_rewards=config.clip_rewards,
            )
            while not self._finished():
                odds = exploration(config, self.steps / config.steps)
                self._roll_out_and_learn(rollout, odds)
                progress = self._progress(odds, time.monotonic() - began)
                self.monitor.progress(progress)
                if self.steps >= min(self.next_validation, config.steps):
                    self.next_validation = self.steps + self.validate_every
                    self.monitor.validated(progress, self.judge.validate())
        finally:
            vector.close()
        return self._result(time.monotonic() - began)

    def _finished(self) -> bool:
        used_up = self.steps >= self.config.steps
        return used_up or self.judge.satisfied or self.monitor.should_stop()

    def _roll_out_and_learn(self, rollout: Rollout, odds: Exploration) -> None:
        config, before = self.config, rollout.state
        finished = rollout.collect(self.replay, config.rollout, odds)
        self.recent.extend(episode_return for episode_return, _ in finished)
        self.steps += config.rollout * config.num_envs
        if self.steps >= config.learning_starts and len(self.replay) >= self.length:
            for segment in self._segments(before):
                self.metrics = self.learner.update(segment)

    def _segments(self, before: State) -> Iterator[Segment]:
        """Data of the updates after a roll-out: drawn from the replay, or the roll-out itself,
        divided among the updates by environment, from the state it really began in."""
        config = self.config
        if config.replay:
            for _ in range(config.updates):
                yield self.replay.sample(self.generator, config.batch, self.length)
            return
        for envs in np.array_split(self.generator.permutation(config.num_envs), config.updates):
            yield self.replay.newest(self.length, before, envs)

    def _make_replay(self) -> SegmentReplay:
        config, network = self.config, self.policy.network
        rows = config.replay // config.num_envs if config.replay else config.rollout
        if rows < self.length:
            needed = self.length * config.num_envs
            raise SnnRlError(f"{self.name}: replay must hold at least {needed} transitions")
        return SegmentReplay(
            config.num_envs,
            rows,
            network.input_shape,
            pixels=network.pixels,
            teacher_actions=self.task.num_actions if self.teacher else 0,
        )

    def _progress(self, odds: Exploration, seconds: float) -> Progress:
        return Progress(
            stage=self.name,
            steps=self.steps,
            total_steps=self.config.steps,
            updates=self.learner.updates,
            seconds=seconds,
            epsilon=odds.epsilon,
            mean_reward=float(np.mean(self.recent)) if self.recent else None,
            validation=self.judge.last,
            metrics=self.metrics,
        )

    def _result(self, seconds: float) -> Result:
        if self.steps >= self.config.steps and not self.learner.updates:
            log.warning(
                "stage %s ended untrained: its %d steps hold no update after the first %d",
                self.name,
                self.steps,
                self.config.learning_starts,
            )
        return Result(
            network=self.judge.best or self.policy.network,
            validation=self.judge.best_mean,
            target_reached=self.judge.satisfied,
            steps=self.steps,
            updates=self.learner.updates,
            seconds=seconds,
            interrupted=self.monitor.should_stop(),
        )


def exploration(config: LearnerConfig, progress: float) -> Exploration:
    """Odds of random and of the teacher's actions at `progress` (0 to 1) through the stage."""
    high, low = config.epsilon
    epsilon = high + (low - high) * min(1.0, progress / config.explore)
    share = 0.0
    if config.teacher_acts > 0:
        share = max(0.0, 1 - progress / config.teacher_acts)
    return Exploration(epsilon, share)


class Judge:
    """Validates the snapped network and keeps the best one."""

    def __init__(self, policy: Policy, task: Task, config: ValidationConfig) -> None:
        self.policy, self.task, self.config = policy, task, config
        self.best: Network | None = None
        self.best_mean = -np.inf
        self.last: float | None = None
        self.satisfied = False

    def validate(self) -> Evaluation:
        """Validate once; where the target is met, confirm it on further seeds."""
        network = self.policy.network.clone()
        snap(network, self.policy.timesteps)
        seed, config = self.task.seed, self.config
        result = self._play(network, validation_seeds(seed, config.episodes))
        mean, target = result.mean, config.target
        if target is not None and mean >= target:
            second = self._play(network, validation_seeds(seed, config.confirm, confirm=True)).mean
            self.satisfied = second >= target
            mean = min(mean, second)
        self.last = mean
        if mean >= self.best_mean:
            self.best, self.best_mean = network, mean
        return result

    def _play(self, network: Network, seeds: Sequence[int]) -> Evaluation:
        policy, task = replace(self.policy, network=network), self.task
        return evaluate(policy, task.env_id, task.pipeline, seeds, task.conditions)
