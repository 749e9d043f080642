"""Trains one stage: roll out, update, validate, save; the same loop for every network."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from snn_rl.agents.acting import Actor
from snn_rl.agents.dqn.experience import Experience
from snn_rl.agents.dqn.learner import Learner
from snn_rl.agents.dqn.overlap import OverlappedPlay
from snn_rl.agents.dqn.plan import StagePlan
from snn_rl.agents.dqn.rollout import Rollout, exploration
from snn_rl.agents.dqn.validation import Validator
from snn_rl.agents.evaluation import Stopped
from snn_rl.agents.lowered import on_grid
from snn_rl.agents.monitor import Monitor, Progress
from snn_rl.core.network import Network
from snn_rl.errors import CheckpointError, SnnRlError
from snn_rl.runs.resume import Saver

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """A trained stage: the network to keep and how it came about.

    Attributes:
        validation: best mean reward.
        play: spike rates and changed pixels there; {} without a validation.
    """

    network: Network
    validation: float
    play: dict[str, Any]
    target_reached: bool
    steps: int
    updates: int
    seconds: float
    interrupted: bool


@dataclass
class StagePosition:
    """How far a stage is.

    Attributes:
        next_validation, validated_at: steps of the next and of the last validation.
        recent: returns of the last training episodes.
        metrics: of the last update.
    """

    next_validation: int
    steps: int = 0
    seconds: float = 0.0
    validated_at: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    metrics: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return vars(self) | {"recent": list(self.recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a state that `state_dict` gave."""
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.next_validation, self.validated_at = state["next_validation"], state["validated_at"]
        self.recent.extend(state["recent"])
        self.metrics = state["metrics"]


class StageTrainer:
    """Trains one stage: call `run` once.

    All that changes between roll-outs is in `position`, `experience`, `learner`, `validator`, the
    generators and the roll-out, and in what `state_dict` gives.

    Args:
        saver: keeps the stage's state, and holds it where the stage is to be resumed.

    Raises:
        SnnRlError: the replay is too small.
    """

    def __init__(self, plan: StagePlan, monitor: Monitor, saver: Saver | None = None) -> None:
        self.plan, self.monitor, self.saver = plan, monitor, saver
        policy, config = plan.policy, plan.config
        torch.manual_seed(plan.seed)  # dropout's masks
        self.position = StagePosition(config.learning_starts + plan.validation.every)
        self.experience = Experience(plan, saver.replay_files if saver else None)
        self.learner = Learner(
            policy.network,
            config,
            total_updates=plan.total_updates,
            timesteps=policy.timesteps,
            carry_membrane=policy.carry_membrane,
        )
        kept = replace(policy, network=self.learner.kept)
        self.validator = Validator(kept, plan.task, plan.validation, monitor.should_stop)
        self.overlapped = OverlappedPlay(policy) if config.overlap else None
        self.odds = exploration(config, 0.0)  # in the newest roll-out
        self.play_generator = self.experience.generator
        if self.overlapped:
            self.play_generator = np.random.default_rng([plan.seed, 1])

    def run(self) -> Result:
        """Train until the target is met, the steps are used up or the monitor asks to stop.

        Raises:
            FloatingPointError: the gradients are not finite.
            OSError: the state cannot be saved.
            CheckpointError: the saved state is damaged or another network's.
        """
        task, config = self.plan.task, self.plan.config
        vector = task.conditions.make_vector(task.env_id, config.num_envs, self.plan.seed)
        try:
            rollout = Rollout(
                vector,
                task.env_id,
                task.pipeline,
                self.overlapped.policy if self.overlapped else self.plan.policy,
                self.plan.labeller,
                self.play_generator,
                clip_rewards=config.clip_rewards,
                state_every=self.experience.spans.every,
                player=self._on_grid if config.on_grid else None,
            )
            self._resume(rollout)
            self._train(rollout)
            self._save(rollout)
        finally:
            if self.overlapped:
                self.overlapped.close()
            vector.close()
            if self.saver:
                self.saver.wait()
        return self._result()

    def _on_grid(self) -> Actor:
        """Who plays the next roll-out: the network as it would be saved now."""
        policy = self.overlapped.policy if self.overlapped else self.plan.policy
        return on_grid(policy, self.plan.config.num_envs, *self.validator.busy)[1]

    def _train(self, rollout: Rollout) -> None:
        began = time.monotonic() - self.position.seconds
        while not (self._complete() or self.monitor.should_stop()):
            if self.saver and (self.saver.due() or not self.experience.outlives_roll_out()):
                self._save(rollout)
            self._roll_out_and_learn(rollout)
            self.position.seconds = time.monotonic() - began
            self.monitor.progress(self._progress())
            self._validate_if_due()

    def _complete(self) -> bool:
        steps = self.position.steps
        used_up = steps >= self.plan.config.steps and self.position.validated_at == steps
        return used_up or self.validator.satisfied

    def _roll_out_and_learn(self, rollout: Rollout) -> None:
        config, began = self.plan.config, rollout.state
        odds = self.odds = exploration(config, self.position.steps / config.steps)
        if self.overlapped:
            self.overlapped.start(rollout, config.rollout, odds)
            self._learn()
            self._count(began, self.overlapped.finish(self.experience.replay))
        else:
            self._count(began, rollout.collect(self.experience.replay, config.rollout, odds))
            self._learn()

    def _count(self, before: Any, finished: Sequence[tuple[float, int]]) -> None:
        """Take note of a roll-out that is in the replay now."""
        self.experience.before = before
        self.position.recent.extend(episode_return for episode_return, _ in finished)
        self.position.steps += self.plan.config.rollout * self.plan.config.num_envs

    def _learn(self) -> None:
        begun = self.position.steps >= self.plan.config.learning_starts
        if begun and self.experience.suffices:
            self.position.metrics = self.learner.learn(self.experience.segments())

    def _validate_if_due(self) -> None:
        position = self.position
        if position.steps < min(position.next_validation, self.plan.config.steps):
            return
        try:
            evaluation = self.validator.validate()
        except Stopped:  # it is due again when the stage is resumed
            return
        position.next_validation = position.steps + self.plan.validation.every
        position.validated_at = position.steps
        self.monitor.validated(self._progress(), evaluation)

    def _save(self, rollout: Rollout) -> None:
        if self.saver:
            state = {"stage": self.plan.name, **self.state_dict(), "rollout": rollout.state_dict()}
            self.saver.save(state, self.experience.replay.flush)
            self.experience.saved()

    def _resume(self, rollout: Rollout) -> None:
        state = self.saver.load() if self.saver else None
        if state is None or state["stage"] != self.plan.name:
            return
        self._check_surrogate(state)
        try:
            self.load_state_dict(state)
        except (LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(
                f"the saved state of stage {self.plan.name} does not fit its network: a run with a "
                f"network of your own goes on with the same q_network ({reason})"
            ) from error
        self.experience.replay.check()
        if not rollout.load_state_dict(state["rollout"]):
            self.experience.replay.cut()
        log.info("stage %s goes on after %d steps", self.plan.name, self.position.steps)
        if self.position.steps != self.position.validated_at:
            self._validate_if_due()

    @property
    def _surrogate(self) -> dict[str, Any]:
        """Name and gamma of the gradient that spikes are trained with; {} where none spike."""
        policy = self.plan.policy
        if not policy.spiking:
            return {}
        return {"kind": policy.network.surrogate.kind, "gamma": policy.network.surrogate.gamma}

    def _check_surrogate(self, state: Mapping[str, Any]) -> None:
        """Raise SnnRlError where a resumed stage would go on with another gradient."""
        began = state.get("surrogate") or self._surrogate
        if began != self._surrogate:
            raise SnnRlError(
                f"stage {self.plan.name} trains with the surrogate {began['kind']!r} (gamma "
                f"{began['gamma']:g}): to go on, pass surrogate=snn_rl.Surrogate(name, gamma, "
                "function)"
            )

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training, but for the environments."""
        return {
            "surrogate": self._surrogate,
            **self.position.state_dict(),
            **self.experience.state_dict(),
            "play_generator": self.play_generator.bit_generator.state,
            "torch_generator": torch.get_rng_state(),  # draws dropout's masks
            "learner": self.learner.state_dict(),
            "validation": self.validator.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state that `state_dict` gave."""
        self.position.load_state_dict(state)
        self.experience.load_state_dict(state)
        self.play_generator.bit_generator.state = state["play_generator"]
        torch.set_rng_state(state["torch_generator"])
        self.learner.load_state_dict(state["learner"])
        self.validator.load_state_dict(state["validation"])

    def _progress(self) -> Progress:
        position = self.position
        return Progress(
            stage=self.plan.name,
            steps=position.steps,
            total_steps=self.plan.config.steps,
            updates=self.learner.updates,
            seconds=position.seconds,
            epsilon=self.odds.epsilon,
            mean_reward=float(np.mean(position.recent)) if position.recent else None,
            validation=self.validator.last,
            metrics=position.metrics,
        )

    def _result(self) -> Result:
        position, config = self.position, self.plan.config
        if position.steps >= config.steps and not self.learner.updates:
            log.warning(
                "stage %s ended untrained: its %d steps hold no update after the first %d",
                self.plan.name,
                position.steps,
                config.learning_starts,
            )
        return Result(
            network=self.validator.best or self.learner.kept,
            validation=self.validator.best_mean,
            play=self.validator.best_play,
            target_reached=self.validator.satisfied,
            steps=position.steps,
            updates=self.learner.updates,
            seconds=position.seconds,
            interrupted=not self._complete(),
        )
