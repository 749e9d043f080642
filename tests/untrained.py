"""Spiking agents that play badly but at once: random weights, converted on real frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from snn_rl.agents.agent import Agent
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import mlp
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.grid import snap
from snn_rl.core.network import Network
from snn_rl.envs import check_spaces, make_vector
from snn_rl.envs.observation import ObservationPipeline, pipeline_for

OPTIONS = NeuronOptions(leak="neuron", leak_low=0.6, leak_high=0.99)


def small_cnn(channels: int, actions: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(6, 8, 4, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 9 * 9, 24),
        nn.ReLU(),
        nn.Linear(24, actions),
    )


def untrained_ann(env_id: str, seed: int = 0, stack: int = 1) -> Agent:
    """An ANN that never learned anything."""
    torch.manual_seed(seed)
    spec = check_spaces(env_id)
    pipeline = pipeline_for(spec)
    shape = pipeline.frame_shape
    if pipeline.pixels:
        module = small_cnn(stack, spec.num_actions)
    else:
        module = mlp(stack * shape[0], [24, 12], spec.num_actions)
    network = trace(module, shape, pixels=pipeline.pixels, stack=stack)
    return _agent(env_id, network, pipeline, 1, spec.num_actions)


def untrained_agent(env_id: str, timesteps: int = 1, seed: int = 0, start: float = 0.0) -> Agent:
    """A spiking agent: the same ANN, converted; its membranes begin at `start` thresholds."""
    ann = untrained_ann(env_id, seed)
    calibration = Calibration(_frames(env_id, ann.pipeline))
    options = replace(OPTIONS, start=start)
    network = convert(
        ann.policy.network, calibration, timesteps=timesteps, carry_membrane=True, options=options
    )
    snap(network, timesteps)
    return _agent(env_id, network, ann.pipeline, timesteps, ann.num_actions)


def _agent(
    env_id: str, network: Network, pipeline: ObservationPipeline, timesteps: int, actions: int
) -> Agent:
    card = {"stage": f"T{timesteps}", "environment": {"env_id": env_id, "num_actions": actions}}
    return Agent(Policy(network.eval(), timesteps), pipeline, card)


def _frames(env_id: str, pipeline: ObservationPipeline) -> torch.Tensor:
    """Frames [12, 4, ...] of random play."""
    vector = make_vector(env_id, 4, seed=0)
    generator = np.random.default_rng(0)
    actions = generator.integers(vector.single_action_space.n, size=(12, 4))  # type: ignore[attr-defined]
    vector.reset()
    frames = [pipeline.encode(vector.step(action)[0]) for action in actions]
    vector.close()
    return torch.from_numpy(np.stack(frames))
