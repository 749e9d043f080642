"""Untrained agents and what they see, shared by tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn_rl.agents.agent import Agent
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import build_network, mlp
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.grid import snap
from snn_rl.envs.observation import ObservationPipeline

ENV = "PositionOnlyCartPole-v1"
SCALE = (2.0, 16.0)
OPTIONS = NeuronOptions(leak="neuron", leak_low=0.6, leak_high=0.99)


def card(env_id: str = ENV) -> dict[str, Any]:
    return {"stage": "T2", "environment": {"env_id": env_id, "num_actions": 2}}


def make_agent(seed: int = 0, timesteps: int = 2) -> Agent:
    torch.manual_seed(seed)
    ann = trace(mlp(2, [32, 16], 2), (2,), pixels=False)
    frames = 0.4 * torch.randn(30, 8, 2)
    network = convert(
        ann, Calibration(frames), timesteps=timesteps, carry_membrane=True, options=OPTIONS
    )
    snap(network, timesteps)
    network.eval()
    return Agent(
        Policy(network, timesteps), ObservationPipeline("vector", (2,), scale=SCALE), card()
    )


def observations(count: int, batch: int | None = None, seed: int = 1) -> NDArray[np.float32]:
    shape = (count, 2) if batch is None else (count, batch, 2)
    return np.random.default_rng(seed).normal(0, 0.2, shape).astype(np.float32)


def values(agent: Agent, sequence: NDArray[Any]) -> NDArray[Any]:
    return np.array([agent.q_values(observation) for observation in sequence])


def pixel_agent() -> Agent:
    torch.manual_seed(0)
    ann = build_network((1, 84, 84), 2, stack=1, hidden=[])
    frames = torch.randint(0, 256, (2, 2, 1, 84, 84), dtype=torch.uint8)
    network = convert(ann, Calibration(frames), timesteps=1, carry_membrane=True, options=OPTIONS)
    snap(network, 1)
    pipeline = ObservationPipeline("image", (96, 60, 3))
    return Agent(Policy(network.eval()), pipeline, card("Some-v0"))
