"""Real play to balance thresholds on, and to measure activations."""

from __future__ import annotations

import numpy as np
import torch

from snn_rl.agents.dqn.replay import SegmentReplay
from snn_rl.agents.dqn.rollout import Exploration, Rollout
from snn_rl.agents.dqn.validation import Task
from snn_rl.agents.policy import Policy
from snn_rl.conversion.convert import Calibration

ENVS, FRAMES = 16, 64
ODDS = Exploration(epsilon=0.05, teacher=0.5)


def play_for_calibration(ann: Policy, labeller: Policy, task: Task, seed: int) -> Calibration:
    """Frames that `ann` sees when half of the actions are the labeller's."""
    return play_frames(ann, labeller, task, seed, ODDS, ENVS, FRAMES)


def play_frames(
    policy: Policy,
    labeller: Policy | None,
    task: Task,
    seed: int,
    odds: Exploration,
    envs: int,
    frames: int,
) -> Calibration:
    """`frames` frames of each of `envs` games."""
    vector = task.conditions.make_vector(task.env_id, envs, seed)
    network = policy.network
    replay = SegmentReplay(
        envs,
        frames,
        network.input_shape,
        pixels=network.pixels,
        teacher_actions=task.num_actions if labeller else 0,
    )
    try:
        generator = np.random.default_rng(seed)
        rollout = Rollout(vector, task.env_id, task.pipeline, policy, labeller, generator)
        rollout.collect(replay, frames, odds)
    finally:
        vector.close()
    segment = replay.newest(frames, None)
    return Calibration(torch.from_numpy(segment.frames), torch.from_numpy(segment.start))
