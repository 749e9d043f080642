"""Validation in training: plays the snapped network and keeps the best one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn_rl.agents.acting import Actor
from snn_rl.agents.conditions import STANDARD, Conditions
from snn_rl.agents.config import ValidationConfig
from snn_rl.agents.evaluation import Evaluation, evaluate
from snn_rl.agents.lowered import on_grid
from snn_rl.agents.policy import Policy
from snn_rl.agents.seeds import validation_seeds
from snn_rl.core.network import Network
from snn_rl.envs.observation import ObservationPipeline


@dataclass(frozen=True)
class Task:
    """The environment a run is about."""

    env_id: str
    pipeline: ObservationPipeline
    num_actions: int
    seed: int
    conditions: Conditions = STANDARD


class Validator:
    """Validates the snapped network and keeps the best one."""

    def __init__(
        self,
        policy: Policy,
        task: Task,
        config: ValidationConfig,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.policy, self.task, self.config = policy, task, config
        self.should_stop = should_stop
        self.best: Network | None = None
        self.best_mean = -np.inf
        # Of the best network in validation; {} before: `spike_rates` and `changed_pixels`.
        self.best_play: dict[str, Any] = {}
        self.last: float | None = None
        self.satisfied = False
        # Rates and changed pixels of the last validation: they choose what runs the network next.
        self.busy: tuple[dict[str, float] | None, float | None] = (None, None)

    def validate(self) -> Evaluation:
        """Validate once; where the target is met, confirm it on further seeds.

        Raises Stopped if `should_stop` says so, and has then changed nothing.
        """
        seed, config = self.task.seed, self.config
        policy, actor = on_grid(self.policy, config.episodes, *self.busy)
        result = self._play(actor, validation_seeds(seed, config.episodes))
        mean, target = result.mean, config.target
        if target is not None and mean >= target:
            second = self._play(actor, validation_seeds(seed, config.confirm, confirm=True)).mean
            self.satisfied = second >= target
            mean = min(mean, second)
        self.last, self.busy = mean, (result.spike_rates, result.changed_pixels)
        if mean >= self.best_mean:
            self.best, self.best_mean = policy.network, mean
            self.best_play = {
                "spike_rates": result.spike_rates,
                "changed_pixels": result.changed_pixels,
            }
        return result

    def _play(self, actor: Actor, seeds: Sequence[int]) -> Evaluation:
        task = self.task
        return evaluate(
            actor,
            task.env_id,
            task.pipeline,
            seeds,
            task.conditions,
            self.should_stop,
            self.config.max_frames,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that changes from validation to validation."""
        return {
            "best": self.best.state_dict() if self.best else {},
            "best_mean": self.best_mean,
            "best_play": self.best_play,
            "last": self.last,
            "satisfied": self.satisfied,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a state that `state_dict` gave."""
        if state["best"]:
            self.best = self.policy.network.clone()
            self.best.load_state_dict(state["best"])
        self.best_mean, self.last = state["best_mean"], state["last"]
        self.best_play = dict(state.get("best_play", {}))
        self.satisfied = state["satisfied"]
