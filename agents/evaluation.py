"""Greedy evaluation: one full episode per environment and seed, rewards as the game gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from snn_rl.agents.policy import Policy
from snn_rl.envs import make_vector
from snn_rl.envs.observation import ObservationPipeline

VALIDATION_SEEDS, EVALUATION_SEEDS = 100_000_000, 200_000_000
"""Start of the seeds that choose checkpoints, and of those that are reported. Training episodes
use seeds from 2**30 upwards."""
SEEDS_PER_RUN = 10_000


def evaluation_seeds(seed: int, trials: int) -> list[int]:
    """Seeds of the reported trials, never used in training or validation."""
    return [EVALUATION_SEEDS + seed * SEEDS_PER_RUN + i for i in range(trials)]


def validation_seeds(seed: int, episodes: int, block: int = 0) -> list[int]:
    """Seeds of one block of validation episodes."""
    return [VALIDATION_SEEDS + seed * SEEDS_PER_RUN + block * episodes + i for i in range(episodes)]


@dataclass(frozen=True)
class Evaluation:
    """Episodes in the order of their seeds.

    `spike_rates` holds spikes per neuron per frame by layer, summed over the timesteps.
    """

    rewards: list[float]
    lengths: list[int]
    truncated: int
    distinct_trials: int
    spike_rates: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean episode reward."""
        return float(np.mean(self.rewards))

    @property
    def std(self) -> float:
        """Population standard deviation of the episode rewards."""
        return float(np.std(self.rewards))


def evaluate(
    policy: Policy,
    env_id: str,
    pipeline: ObservationPipeline,
    seeds: Sequence[int],
    *,
    flicker: float = 0.0,
) -> Evaluation:
    """Play one greedy episode per seed, all side by side.

    Raises:
        UnsupportedEnvironment: the environment cannot be made.
    """
    count = len(seeds)
    vector = make_vector(env_id, count, seed=0, flicker=flicker)
    rates = _RateCounter(policy, count)
    try:
        observation, info = vector.reset(seed=list(seeds))
        state, start = policy.initial_state(count), np.ones(count, np.bool_)
        active = np.ones(count, np.bool_)
        cut = np.zeros(count, np.bool_)
        rewards, lengths = np.zeros(count), np.zeros(count, np.int64)
        games = [hashlib.sha256() for _ in seeds]
        while active.any():
            frames = policy.view(pipeline.encode(observation), info, env_id)
            rates.active = active
            q, state = policy.q_values(frames, state, start, rates.observe)
            action = q.argmax(1)
            observation, reward, terminated, truncated, info = vector.step(action)
            rewards += reward * active
            lengths += active
            for i in np.flatnonzero(active):
                games[i].update(f"{action[i]},{reward[i]};".encode())
            cut |= truncated & ~terminated & active
            active = active & ~(terminated | truncated)
            start = np.zeros(count, np.bool_)
    finally:
        vector.close()
    return Evaluation(
        rewards=rewards.tolist(),
        lengths=lengths.tolist(),
        truncated=int(cut.sum()),
        distinct_trials=len({game.hexdigest() for game in games}),
        spike_rates=rates.result(),
    )


class _RateCounter:
    """Counts spikes per layer over the frames of the episodes that still run."""

    def __init__(self, policy: Policy, count: int) -> None:
        self.sizes = {name: layer.size for name, layer in policy.network.spiking.items()}
        self.spikes = dict.fromkeys(self.sizes, 0.0)
        self.frames = dict.fromkeys(self.sizes, 0)
        self.active = np.ones(count, np.bool_)

    def observe(self, layer: str, spikes: Tensor) -> None:
        per_row = spikes[0].flatten(2).sum((0, 2)).cpu().numpy()
        self.spikes[layer] += float(per_row[self.active].sum())
        self.frames[layer] += int(self.active.sum())

    def result(self) -> dict[str, float]:
        return {
            name: self.spikes[name] / (self.frames[name] * size)
            for name, size in self.sizes.items()
            if self.frames[name]
        }
