"""Watching an agent's training: where it stands, metrics.jsonl, TensorBoard."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from snn_rl.agents.evaluation import Evaluation
from snn_rl.runs import monitor
from snn_rl.runs.monitor import FileMonitor, Records

SECONDS_BETWEEN = 1.0
"""Lines without a validation come no closer than this."""


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


def file_monitor(folder: Path) -> FileMonitor[Progress, Evaluation]:
    """The records of an agent's run in `folder`."""
    return FileMonitor(Records(folder, "steps"), _line, SECONDS_BETWEEN)


def _line(
    progress: Progress, evaluation: Evaluation | None
) -> tuple[dict[str, Any], dict[str, float]]:
    """Of metrics.jsonl, with the validation's mean; for TensorBoard also the spike rates."""
    values = {f"loss/{name}": value for name, value in progress.metrics.items()}
    values["rollout/epsilon"] = progress.epsilon
    values["rollout/steps_per_second"] = progress.steps / max(progress.seconds, 1e-9)
    if progress.mean_reward is not None:
        values["rollout/mean_reward"] = progress.mean_reward
    if evaluation is not None:
        values["validation/mean_reward"] = evaluation.mean
        values |= {f"spike_rate/{name}": rate for name, rate in evaluation.spike_rates.items()}
    validation = None if evaluation is None else evaluation.mean
    return asdict(progress) | {"validation": validation}, values
