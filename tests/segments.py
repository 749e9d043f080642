"""Random play as segments, and learners for it, shared by tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.dqn.learner import Learner
from snn_rl.agents.dqn.replay import Segment
from snn_rl.agents.qnetwork import mlp
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network

FEATURES, ACTIONS, BATCH = 4, 3, 5


def ann_network(stack: int = 1, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = mlp(FEATURES * stack, [16, 12], ACTIONS)
    return trace(module, (FEATURES,), pixels=False, stack=stack)


def spiking_network(stack: int = 1, timesteps: int = 2) -> Network:
    options = NeuronOptions(leak="neuron", leak_low=0.1, leak_high=0.9)
    frames = torch.from_numpy(np.random.default_rng(9).normal(size=(20, 4, FEATURES)))
    return convert(
        ann_network(stack),
        Calibration(frames.float()),
        timesteps=timesteps,
        carry_membrane=True,
        options=options,
    )


def segment_of(frames: int, seed: int = 0, ends: float = 0.25, burn_in: int = 0) -> Segment:
    """Random play, with ends and the dummy steps and starts that follow them."""
    generator = np.random.default_rng(seed)
    shape = (frames, BATCH)
    terminated, truncated, last, start = (np.zeros(shape, np.bool_) for _ in range(4))
    for f in range(frames):
        last[f] = False if f == 0 else terminated[f - 1] | truncated[f - 1]
        start[f] = generator.random(BATCH) < 0.2 if f == 0 else last[f - 1]
        end = (generator.random(BATCH) < ends) & ~last[f]
        kind = generator.random(BATCH) < 0.5
        terminated[f], truncated[f] = end & kind, end & ~kind
    reward = generator.normal(size=shape).astype(np.float32)
    return Segment(
        frames=generator.normal(size=(*shape, FEATURES)).astype(np.float32),
        start=start,
        valid=~last,
        action=generator.integers(ACTIONS, size=shape),
        reward=np.where(last, 0, reward).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        teacher_q=generator.normal(size=(*shape, ACTIONS)).astype(np.float32),
        burn_in=burn_in,
    )


def slow_return(segment: Segment, f: int, b: int, n: int, gamma: float) -> tuple[float, float, int]:
    """Total, discount and bootstrap frame of one n-step return, step by step."""
    total = 0.0
    for k in range(n):
        total += gamma**k * float(segment.reward[f + k, b])
        if segment.terminated[f + k, b]:
            return total, 0.0, 0
        if segment.truncated[f + k, b]:
            return total, gamma ** (k + 1), f + k + 1
    return total, gamma**n, f + n


def learner_of(network: Network, **settings: Any) -> Learner:
    run = {k: settings.pop(k) for k in ("timesteps", "carry_membrane") if k in settings}
    total = settings.pop("total_updates", 100)
    settings = {"n_step": 3, "num_envs": 4, "target_every": 200} | settings
    return Learner(network, LearnerConfig(**settings), total_updates=total, **run)


def losses(learner: Learner, segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its parts."""
    return learner.loss(next(learner.targets.lessons([segment])))


def gradients(learner: Learner, segment: Segment) -> list[Tensor]:
    learner.network.zero_grad(set_to_none=False)
    loss, _ = losses(learner, segment)
    loss.backward()  # type: ignore[no-untyped-call]
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learner.parameters]
