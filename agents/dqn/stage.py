"""Trains one stage: roll out, update, validate, save; the same loop for every network."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from snn_rl.agents.config import LearnerConfig, ValidationConfig
from snn_rl.agents.dqn.learner import Learner
from snn_rl.agents.dqn.overlap import OverlappedPlay
from snn_rl.agents.dqn.replay import Segment, SegmentReplay, spare_rows
from snn_rl.agents.dqn.rollout import Rollout, exploration, restored
from snn_rl.agents.dqn.spans import spans_of
from snn_rl.agents.dqn.validation import Task, Validator
from snn_rl.agents.evaluation import Stopped
from snn_rl.agents.monitor import Monitor, Progress
from snn_rl.agents.policy import Policy
from snn_rl.core.network import Network
from snn_rl.core.state import leaves
from snn_rl.errors import CheckpointError, SnnRlError
from snn_rl.runs.resume import Saver

log = logging.getLogger(__name__)


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

    All randomness follows from `stage_seed`; all that changes between roll-outs is in attributes,
    and in `state_dict`.

    Args:
        name: of the stage, for display.
        policy: how the network is run; `policy.network` is trained in place.
        teacher: labels frames where the stage distils.
        saver: keeps the stage's state, and holds it where the stage is to be resumed.

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
        saver: Saver | None = None,
    ) -> None:
        self.name, self.task, self.config, self.monitor = name, task, config, monitor
        self.policy, self.stage_seed = policy, stage_seed
        asked = max(config.distill) > 0 or config.teacher_acts > 0
        self.teacher = teacher if asked else None  # labels cost a pass at every step
        self.saver = saver
        self.validate_every = validation.every
        self.next_validation = config.learning_starts + validation.every
        self.validated_at = 0
        self.generator = self.play_generator = np.random.default_rng(stage_seed)
        roll_outs = (config.steps - config.learning_starts) // (config.rollout * config.num_envs)
        roll_outs -= config.overlap  # nothing is learnt from the last one
        self.learner = Learner(
            policy.network,
            config,
            total_updates=roll_outs * config.updates,
            timesteps=policy.timesteps,
            carry_membrane=policy.carry_membrane,
        )
        kept = replace(policy, network=self.learner.kept)
        self.overlapped: OverlappedPlay | None = None
        if config.overlap:
            self.overlapped = OverlappedPlay(policy)
            self.play_generator = np.random.default_rng([stage_seed, 1])
        self.before: Any = None  # the state at the start of the newest roll-out in the replay
        self.validator = Validator(kept, task, validation, monitor.should_stop)
        self.spans = spans_of(policy, config)
        # Whether a resumed stage needs what the replay holds.
        self.keeps_replay = config.replay > 0 or config.overlap
        self.replay = self._make_replay()
        self.steps = 0
        self.seconds = 0.0
        self.odds = exploration(config, 0.0)
        self.recent: deque[float] = deque(maxlen=100)  # returns of the last training episodes
        self.metrics: dict[str, float] = {}
        self.saved_rows = 0

    def run(self) -> Result:
        """Train until the target is met, the steps are used up or the monitor asks to stop.

        Raises:
            FloatingPointError: the gradients are not finite.
            OSError: the state cannot be saved.
            CheckpointError: the saved state is damaged or another network's.
        """
        task, config = self.task, self.config
        vector = task.conditions.make_vector(task.env_id, config.num_envs, self.stage_seed)
        try:
            rollout = Rollout(
                vector,
                task.env_id,
                task.pipeline,
                self.overlapped.policy if self.overlapped else self.policy,
                self.teacher,
                self.play_generator,
                clip_rewards=config.clip_rewards,
                state_every=self.spans.every,
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

    def _train(self, rollout: Rollout) -> None:
        began = time.monotonic() - self.seconds
        while not (self._complete() or self.monitor.should_stop()):
            if self.saver and (self.saver.due() or not self._replay_outlives_roll_out()):
                self._save(rollout)
            self._roll_out_and_learn(rollout)
            self.seconds = time.monotonic() - began
            self.monitor.progress(self._progress())
            self._validate_if_due()

    def _complete(self) -> bool:
        used_up = self.steps >= self.config.steps and self.validated_at == self.steps
        return used_up or self.validator.satisfied

    def _validate_if_due(self) -> None:
        if self.steps < min(self.next_validation, self.config.steps):
            return
        try:
            evaluation = self.validator.validate()
        except Stopped:  # it is due again when the stage is resumed
            return
        self.next_validation = self.steps + self.validate_every
        self.validated_at = self.steps
        self.monitor.validated(self._progress(), evaluation)

    def _replay_outlives_roll_out(self) -> bool:
        kept = self.replay.keeps(self.saved_rows, self.config.rollout)
        return kept or not self.keeps_replay

    def _save(self, rollout: Rollout) -> None:
        if self.saver:
            state = {"stage": self.name, **self.state_dict(), "rollout": rollout.state_dict()}
            self.saver.save(state, self.replay.flush)
            self.saved_rows = self.replay.written

    def _resume(self, rollout: Rollout) -> None:
        state = self.saver.load() if self.saver else None
        if state is None or state["stage"] != self.name:
            return
        self._check_surrogate(state)
        try:
            self.load_state_dict(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(
                f"the saved state of stage {self.name} does not fit its network: a run with a "
                f"network of your own goes on with the same q_network ({reason})"
            ) from error
        self.replay.check()
        if not rollout.load_state_dict(state["rollout"]):
            self.replay.cut()
        log.info("stage %s goes on after %d steps", self.name, self.steps)
        if self.steps != self.validated_at:
            self._validate_if_due()

    @property
    def _surrogate(self) -> dict[str, Any]:
        """Name and gamma of the gradient that spikes are trained with; {} where none spike."""
        if not self.policy.spiking:
            return {}
        surrogate = self.policy.network.surrogate
        return {"kind": surrogate.kind, "gamma": surrogate.gamma}

    def _check_surrogate(self, state: dict[str, Any]) -> None:
        """Raise SnnRlError where a resumed stage would go on with another gradient."""
        began = state.get("surrogate") or self._surrogate
        if began != self._surrogate:
            raise SnnRlError(
                f"stage {self.name} trains with the surrogate {began['kind']!r} (gamma "
                f"{began['gamma']:g}): to go on, pass surrogate=snn_rl.Surrogate(name, gamma, "
                "function)"
            )

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training, but for the environments."""
        return {
            "surrogate": self._surrogate,
            "steps": self.steps,
            "seconds": self.seconds,
            "next_validation": self.next_validation,
            "validated_at": self.validated_at,
            "recent": list(self.recent),
            "metrics": self.metrics,
            "written": self.replay.written,
            "before": leaves(self.before) if self.overlapped else [],
            "generator": self.generator.bit_generator.state,
            "play_generator": self.play_generator.bit_generator.state,
            "torch_generator": torch.get_rng_state(),  # draws dropout's masks
            "learner": self.learner.state_dict(),
            "validation": self.validator.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state that `state_dict` gave."""
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.next_validation = state["next_validation"]
        self.validated_at = state["validated_at"]
        self.recent.extend(state["recent"])
        self.metrics = state["metrics"]
        self.replay.written = self.saved_rows = state["written"]
        if state["before"]:
            like = self.policy.initial_state(self.config.num_envs)
            self.before = restored(like, state["before"])
        self.generator.bit_generator.state = state["generator"]
        self.play_generator.bit_generator.state = state["play_generator"]
        torch.set_rng_state(state["torch_generator"])
        self.learner.load_state_dict(state["learner"])
        self.validator.load_state_dict(state["validation"])

    def _roll_out_and_learn(self, rollout: Rollout) -> None:
        config, began = self.config, rollout.state
        self.odds = exploration(config, self.steps / config.steps)
        if self.overlapped:
            self.overlapped.start(rollout, config.rollout, self.odds)
            self._learn()
            self._count(began, self.overlapped.finish(self.replay))
        else:
            self._count(began, rollout.collect(self.replay, config.rollout, self.odds))
            self._learn()

    def _count(self, before: Any, finished: Sequence[tuple[float, int]]) -> None:
        """Take note of a roll-out that is in the replay now."""
        self.before = before
        self.recent.extend(episode_return for episode_return, _ in finished)
        self.steps += self.config.rollout * self.config.num_envs

    def _learn(self) -> None:
        if self.steps >= self.config.learning_starts and self.replay.firsts(self.spans.length):
            self.metrics = self.learner.learn(self._segments())

    def _segments(self) -> Iterator[Segment]:
        """Data of the updates after a roll-out: drawn from the replay, or the roll-out itself,
        divided among the updates by environment, from the state it really began in."""
        config, spans = self.config, self.spans
        if config.replay:
            for _ in range(config.updates):
                yield self.replay.sample(self.generator, config.batch, spans.length, spans.burn_in)
            return
        for envs in np.array_split(self.generator.permutation(config.num_envs), config.updates):
            yield self.replay.newest(spans.length, self.before, envs)

    def _make_replay(self) -> SegmentReplay:
        config, network = self.config, self.policy.network
        rows = config.replay // config.num_envs if config.replay else config.rollout
        if rows < self.spans.rows:
            needed = self.spans.rows * config.num_envs
            raise SnnRlError(f"{self.name}: replay must hold at least {needed} transitions")
        files, spare = None, 0
        if self.saver and self.keeps_replay:
            files = self.saver.replay_files
            total = config.steps // config.num_envs
            spare = spare_rows(rows, network.input_shape, rollout=config.rollout, total=total)
        return SegmentReplay(
            config.num_envs,
            rows,
            network.input_shape,
            pixels=network.pixels,
            teacher_actions=self.task.num_actions if self.teacher else 0,
            spare=spare,
            files=files,
            state=self.policy.initial_state(config.num_envs),
            every=self.spans.every,
        )

    def _progress(self) -> Progress:
        return Progress(
            stage=self.name,
            steps=self.steps,
            total_steps=self.config.steps,
            updates=self.learner.updates,
            seconds=self.seconds,
            epsilon=self.odds.epsilon,
            mean_reward=float(np.mean(self.recent)) if self.recent else None,
            validation=self.validator.last,
            metrics=self.metrics,
        )

    def _result(self) -> Result:
        if self.steps >= self.config.steps and not self.learner.updates:
            log.warning(
                "stage %s ended untrained: its %d steps hold no update after the first %d",
                self.name,
                self.steps,
                self.config.learning_starts,
            )
        return Result(
            network=self.validator.best or self.learner.kept,
            validation=self.validator.best_mean,
            target_reached=self.validator.satisfied,
            steps=self.steps,
            updates=self.learner.updates,
            seconds=self.seconds,
            interrupted=not self._complete(),
        )
