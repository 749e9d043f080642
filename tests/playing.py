"""Policies, and their play in roll-outs, written down step by step; shared by tests."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from snn_rl.agents.dqn.replay import Segment, SegmentReplay
from snn_rl.agents.dqn.rollout import Exploration, Rollout
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import mlp
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.grid import snap
from snn_rl.core.network import Network, State
from snn_rl.envs import make_vector
from snn_rl.envs.observation import ObservationPipeline

POSITION = "PositionOnlyCartPole-v1"


GREEDY = Exploration(0.0)


class Ledger(gym.Env[NDArray[np.float32], np.int64]):
    """Shows (number of the seed, step). An episode's length and end follow from its seed."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, broken: float = 0.0) -> None:
        self.broken = broken

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        self.number, self.step_number = seed % 1000, 0
        return self._observation(), {}

    def step(self, action: np.int64) -> Any:
        self.step_number += 1
        end = self.step_number >= 2 + self.number % 5
        reward = 0.5 * self.step_number - 2 * int(action) + self.broken
        terminates = self.number % 2 == 0
        return self._observation(), reward, end and terminates, end and not terminates, {}

    def _observation(self) -> NDArray[np.float32]:
        return np.array([self.number, self.step_number], np.float32)


for name, broken in (("Ledger", 0.0), ("LedgerNaN", np.nan), ("LedgerInf", np.inf)):
    gym.register(f"{name}-v0", entry_point=f"{__name__}:Ledger", kwargs={"broken": broken})

PLAIN = ObservationPipeline("vector", (2,))


def ann(features: int = 2, actions: int = 2, *, stack: int = 1, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = trace(mlp(features * stack, [16], actions), (features,), pixels=False, stack=stack)
    snap(network, 1)
    return network


def spiking(timesteps: int, seed: int = 0) -> Network:
    frames = torch.randn(20, 8, 2, generator=torch.Generator().manual_seed(seed))
    network = convert(
        ann(seed=seed),
        Calibration(frames),
        timesteps=timesteps,
        carry_membrane=True,
        options=NeuronOptions(leak="neuron", leak_low=0.5, leak_high=0.99),
    )
    snap(network, timesteps)
    return network


def constant(action: int, actions: int = 3) -> Policy:
    """Always prefers one action."""
    layer = nn.Linear(2, actions)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.eye(actions)[action])
    return Policy(trace(nn.Sequential(layer), (2,), pixels=False))


def play(
    env_id: str,
    policy: Policy,
    frames: int,
    odds: Exploration = GREEDY,
    *,
    envs: int = 5,
    teacher: Policy | None = None,
    seed: int = 3,
    pipeline: ObservationPipeline = PLAIN,
    clip_rewards: bool = False,
    flicker: float = 0.0,
) -> tuple[Rollout, Segment, list[tuple[float, int]]]:
    """Roll out; everything that was stored, and the episodes that ended."""
    vector = make_vector(env_id, envs, seed=seed, flicker=flicker)
    replay = SegmentReplay(
        envs,
        frames,
        policy.network.input_shape,
        pixels=False,
        teacher_actions=int(vector.single_action_space.n) if teacher else 0,  # type: ignore[attr-defined]
    )
    rollout = Rollout(
        vector,
        env_id,
        pipeline,
        policy,
        teacher,
        np.random.default_rng(seed),
        clip_rewards=clip_rewards,
    )
    finished = rollout.collect(replay, frames, odds)
    vector.close()
    return rollout, replay.newest(frames, None), finished


def episodes(segment: Segment, env: int) -> list[slice]:
    """Frames of each episode of one environment, final frames included."""
    begins = np.flatnonzero(segment.start[:, env])
    assert begins[0] == 0
    return [slice(*pair) for pair in zip(begins, [*begins[1:], len(segment.start)], strict=True)]


def alone(policy: Policy, frames: NDArray[Any]) -> tuple[NDArray[Any], State]:
    """Q-values of an episode that is played by itself, and the state after it."""
    state, values = policy.network.initial_state(1), []
    with torch.no_grad():
        for frame in frames:
            q, state = policy.network(
                torch.from_numpy(frame)[None, None],
                state,
                timesteps=policy.timesteps,
                carry_membrane=policy.carry_membrane,
            )
            values.append(q[0, 0].numpy())
    return np.array(values), state
