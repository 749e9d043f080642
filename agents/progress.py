"""What a training run tells those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


class Monitor(Protocol):
    """Watches a training run."""

    def progress(self, progress: Progress) -> None:
        """Called after every roll-out."""

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        """Called after every validation."""

    def should_stop(self) -> bool:
        """True ends training after the current roll-out."""
