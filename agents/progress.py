"""What a training run tells those who watch it."""

from __future__ import annotations

from dataclasses import dataclass

from snn_rl import monitor
from snn_rl.agents.evaluation import Evaluation


@dataclass(frozen=True)
class Progress:
    """Where a stage stands; `metrics` hold losses, agreement with the teacher, spike rate."""

    stage: str
    steps: int
    total_steps: int
    updates: int
    seconds: float
    epsilon: float
    mean_reward: float | None
    validation: float | None
    metrics: dict[str, float]


Monitor = monitor.Monitor[Progress, Evaluation]
"""Watches the training of agents."""
