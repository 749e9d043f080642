"""Real play to balance thresholds on."""

from __future__ import annotations

import numpy as np
import torch

from snn_rl.agents.judge import Task
from snn_rl.agents.policy import Policy
from snn_rl.agents.replay import SegmentReplay
from snn_rl.agents.rollout import Exploration, Rollout
from snn_rl.conversion import Calibration

ENVS, FRAMES = 16, 64
ODDS = Exploration(epsilon=0.05, teacher=0.5)


def play_for_calibration(ann: Policy, labeller: Policy, task: Task, seed: int) -> Calibration:
    """Frames that `ann` sees when half of the actions are the labeller's."""
    vector = task.conditions.make_vector(task.env_id, ENVS, seed)
    network = ann.network
    replay = SegmentReplay(
        ENVS,
        FRAMES,
        network.input_shape,
        pixels=network.pixels,
        teacher_actions=task.num_actions,
    )
    try:
        generator = np.random.default_rng(seed)
        rollout = Rollout(vector, task.env_id, task.pipeline, ann, labeller, generator)
        rollout.collect(replay, FRAMES, ODDS)
    finally:
        vector.close()
    segment = replay.newest(FRAMES, None)
    return Calibration(torch.from_numpy(segment.frames), torch.from_numpy(segment.start))
