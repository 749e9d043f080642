"""Configurations of runs that end soon, shared by tests."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snn_rl.agents.config import TrainConfig, make_config
from snn_rl.agents.evaluation import Evaluation
from snn_rl.agents.monitor import Progress
from snn_rl.core.network import Network
from snn_rl.support.settings import merge

Q_LEARNING: dict[str, Any] = {
    "steps": 1024,
    "num_envs": 8,
    "rollout": 8,
    "replay": 1024,
    "learning_starts": 128,
    "updates": 2,
    "batch": 16,
    "n_step": 3,
    "learning_rate": 0.001,
    "epsilon": [1.0, 0.05],
}
DISTILLING: dict[str, Any] = {
    "steps": 1024,
    "num_envs": 8,
    "rollout": 16,
    "replay": 0,
    "learning_starts": 0,
    "updates": 2,
    "td": [0.0, 0.0],
    "distill": [1.0, 1.0],
    "teacher_acts": 0.5,
    "learning_rate": 0.002,
}
TINY: dict[str, Any] = {
    "env": "CartPole-v1",
    "timesteps": 2,
    "hidden": [16],
    "privileged": Q_LEARNING,
    "ann": Q_LEARNING,
    "spiking": DISTILLING,
    "validation": {"episodes": 4, "every": 512, "confirm": 4},
}


def tiny(**changes: Any) -> TrainConfig:
    return make_config(merge(TINY, changes))


def short(**changes: Any) -> TrainConfig:
    """One roll-out or two per stage."""
    few = {"steps": 192, "learning_starts": 64}
    return tiny(**merge({"ann": few, "privileged": few, "spiking": {"steps": 128}}, changes))


def weights(network: Network) -> dict[str, Tensor]:
    return dict(network.state_dict())


class Watcher:
    """Keeps what it is told, and stops a run after some roll-outs."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.stop_after = stop_after
        self.seen: list[Progress] = []
        self.validations: list[float] = []

    def progress(self, progress: Progress) -> None:
        self.seen.append(progress)

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        self.validations.append(evaluation.mean)

    def should_stop(self) -> bool:
        return len(self.seen) >= self.stop_after


class Witness(gym.Env[NDArray[np.float32], np.int64]):
    """Notes the seeds it is reset with; the reward follows from the seed."""

    seeds: ClassVar[list[int]] = []
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        self.seeds.append(seed)
        self.left, self.reward = 5, float(seed % 10_000 < 5_000) / 5
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> Any:
        self.left -= 1
        shown = np.array([self.left / 5, action], np.float32)
        return shown, self.reward, self.left == 0, False, {}


class Choice(Witness):
    """Three steps; action 1 pays."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.left = 3
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> Any:
        self.reward = float(action)
        return super().step(action)


gym.register("Witness-v0", entry_point=f"{__name__}:Witness")
gym.register("Choice-v0", entry_point=f"{__name__}:Choice")
