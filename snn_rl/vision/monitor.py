"""Watching a run: its progress, metrics.jsonl, TensorBoard and lines for the person who watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from snn_rl.runs import monitor
from snn_rl.runs.monitor import FileMonitor, Records
from snn_rl.vision.evaluation import Evaluation

SECONDS_BETWEEN, SECONDS_BETWEEN_SAID = 5.0, 10.0
"""Lines of the records, and lines for the person, come no closer without a validation."""


@dataclass(frozen=True)
class Progress:
    """Where a stage stands. Rates are over the images of the current epoch so far."""

    stage: str
    epoch: int
    epochs: int
    images: int
    """seen in this stage"""
    total_images: int
    seconds: float
    learning_rate: float
    loss: float
    accuracy: float
    """on augmented training images, 0 to 1"""
    validation: float | None
    """accuracy after the last epoch"""


Monitor = monitor.Monitor[Progress, Evaluation]
"""Watches the training of classifiers."""


def file_monitor(folder: Path) -> FileMonitor[Progress, Evaluation]:
    """The records of a classifier's run in `folder`."""
    return FileMonitor(Records(folder, "images"), _line, SECONDS_BETWEEN)


def _line(
    progress: Progress, evaluation: Evaluation | None
) -> tuple[dict[str, Any], dict[str, float]]:
    """Of metrics.jsonl and for TensorBoard, with a validation's accuracy and spike rates."""
    line: dict[str, Any] = asdict(progress) | {"validation": None}
    values = {
        "training/loss": progress.loss,
        "training/accuracy": progress.accuracy,
        "training/learning_rate": progress.learning_rate,
    }
    if evaluation is not None:
        rates = evaluation.spike_rates
        line |= {"validation": evaluation.accuracy, "spike_rates": rates}
        values["validation/accuracy"] = evaluation.accuracy
        values |= {f"spike_rate/{name}": rate for name, rate in rates.items()}
    return line, values


class LineMonitor:
    """One line every few seconds and after every epoch, through `say`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.printed = time.monotonic()

    def progress(self, progress: Progress) -> None:
        """Say where the stage stands, now and then."""
        if time.monotonic() - self.printed >= SECONDS_BETWEEN_SAID:
            self.printed = time.monotonic()
            self.say(describe(progress))

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        """Say the validation's accuracy."""
        self.printed = time.monotonic()
        self.say(f"{describe(progress)}  validation {100 * evaluation.accuracy:.2f} %")

    def should_stop(self) -> bool:
        """The console never stops a run."""
        return False


def describe(progress: Progress) -> str:
    """Stage, epoch, share done, loss, accuracy, time left in one line."""
    share = progress.images / max(progress.total_images, 1)
    left = progress.seconds * (1 - share) / share if share else 0.0
    return (
        f"{progress.stage:>7} {100 * share:3.0f}%  epoch {progress.epoch}/{progress.epochs}  "
        f"loss {progress.loss:.3f}  training {100 * progress.accuracy:.1f} %  "
        f"{progress.seconds:.0f} s, {left:.0f} s left"
    )
