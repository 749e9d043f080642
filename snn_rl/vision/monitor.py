"""Watching a run: its progress, metrics.jsonl, TensorBoard and lines for the person who watches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from torch.utils.tensorboard import SummaryWriter

from snn_rl.vision.evaluation import Evaluation

METRICS = "metrics.jsonl"


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


class Monitor(Protocol):
    """Watches a training run."""

    def progress(self, progress: Progress) -> None:
        """Called after every update."""

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        """Called after every epoch."""

    def should_stop(self) -> bool:
        """True ends training after the current update."""


class FileMonitor:
    """Writes metrics.jsonl (a line every few seconds, and every validation) and TensorBoard.

    Nothing is written before the first progress, so that a refused run leaves no folder behind.
    """

    def __init__(self, folder: Path, seconds_between: float = 5.0) -> None:
        self.folder, self.pause = folder, seconds_between
        self.file: TextIO | None = None
        self.writer: SummaryWriter | None = None
        self.stage = ""
        self.written = 0.0

    def progress(self, progress: Progress) -> None:
        """Write a line unless the last one is too fresh."""
        if time.monotonic() - self.written >= self.pause:
            self._write(progress, {"validation": None})

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        """Write the validation's accuracy and the layers' spike rates."""
        rates = evaluation.spike_rates
        self._write(progress, {"validation": evaluation.accuracy, "spike_rates": rates})

    def should_stop(self) -> bool:
        """Files never stop a run."""
        return False

    def close(self) -> None:
        """Flush and close the files."""
        if self.file is not None:
            self.file.close()
        if self.writer is not None:
            self.writer.close()

    def _write(self, progress: Progress, found: dict[str, Any]) -> None:
        self.written = time.monotonic()
        if self.file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = (self.folder / METRICS).open("a", encoding="utf-8")
        self.file.write(json.dumps(asdict(progress) | found) + "\n")
        self.file.flush()
        values = {
            "training/loss": progress.loss,
            "training/accuracy": progress.accuracy,
            "training/learning_rate": progress.learning_rate,
        }
        if found["validation"] is not None:
            values["validation/accuracy"] = found["validation"]
            values |= {f"spike_rate/{n}": r for n, r in found["spike_rates"].items()}
        writer = self._writer_for(progress.stage)
        for name, value in values.items():
            writer.add_scalar(name, value, progress.images)

    def _writer_for(self, stage: str) -> SummaryWriter:
        if self.writer is None or stage != self.stage:
            if self.writer is not None:
                self.writer.close()
            self.stage = stage
            self.writer = SummaryWriter(self.folder / "tensorboard" / stage)
        return self.writer


class LineMonitor:
    """One line every few seconds and after every epoch, through `say`."""

    def __init__(self, say: Callable[[str], None], seconds_between: float = 10.0) -> None:
        self.say, self.pause = say, seconds_between
        self.printed = time.monotonic()

    def progress(self, progress: Progress) -> None:
        """Say where the stage stands, now and then."""
        if time.monotonic() - self.printed >= self.pause:
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


class MonitorGroup:
    """Passes everything on to several monitors; `stopped` or any of them may end the run."""

    def __init__(self, monitors: Sequence[Monitor], stopped: Callable[[], bool]) -> None:
        self.monitors, self.stopped = monitors, stopped

    def progress(self, progress: Progress) -> None:
        """Pass on."""
        for monitor in self.monitors:
            monitor.progress(progress)

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        """Pass on."""
        for monitor in self.monitors:
            monitor.validated(progress, evaluation)

    def should_stop(self) -> bool:
        """Whether anyone asks to stop."""
        return self.stopped() or any(monitor.should_stop() for monitor in self.monitors)
