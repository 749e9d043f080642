"""Records of a run on disk (metrics.jsonl, TensorBoard), clean stopping on signals."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter

from snn_rl.agents.evaluation import Evaluation
from snn_rl.agents.progress import Monitor, Progress
from snn_rl.checkpoint import write_text


class StopFlag:
    """Set by a signal (or by the caller) to end training cleanly."""

    def __init__(self) -> None:
        self.raised = False

    @contextmanager
    def on_signals(self) -> Iterator[StopFlag]:
        """SIGINT and SIGTERM raise the flag; a second SIGINT interrupts at once.

        Python takes signals in the main thread alone: in any other nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def raise_flag(number: int, _: FrameType | None) -> None:
            if self.raised and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.raised = True

        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(number, raise_flag) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)


class FileMonitor:
    """Writes metrics.jsonl (one line a second at most, and every validation) and TensorBoard.

    Nothing is written before the first progress, so that a refused run leaves no folder behind.
    """

    def __init__(self, folder: Path, stop: StopFlag, seconds_between: float = 1.0) -> None:
        self.folder, self.stop, self.pause = folder, stop, seconds_between
        self.file: TextIO | None = None
        self.writer: SummaryWriter | None = None
        self.stage = ""
        self.written = 0.0

    def progress(self, progress: Progress) -> None:
        """Write a line unless the last one is too fresh."""
        if time.monotonic() - self.written >= self.pause:
            self._write(progress, None, None)

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        """Write the validation's mean and the layers' spike rates."""
        self._write(progress, evaluation.mean, evaluation)

    def should_stop(self) -> bool:
        """Whether the stop flag is raised."""
        return self.stop.raised

    def close(self) -> None:
        """Flush and close the files."""
        if self.file is not None:
            self.file.close()
        if self.writer is not None:
            self.writer.close()

    def _write(
        self, progress: Progress, validation: float | None, evaluation: Evaluation | None
    ) -> None:
        self.written = time.monotonic()
        line = asdict(progress) | {"validation": validation}
        if self.file is None:
            self.file = self._open(progress)
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        values = {f"loss/{name}": value for name, value in progress.metrics.items()}
        values["rollout/epsilon"] = progress.epsilon
        values["rollout/steps_per_second"] = progress.steps / max(progress.seconds, 1e-9)
        if progress.mean_reward is not None:
            values["rollout/mean_reward"] = progress.mean_reward
        if evaluation is not None:
            values["validation/mean_reward"] = evaluation.mean
            values |= {f"spike_rate/{n}": rate for n, rate in evaluation.spike_rates.items()}
        writer = self._writer_for(progress.stage, progress.steps)
        for name, value in values.items():
            writer.add_scalar(name, value, progress.steps)

    def _writer_for(self, stage: str, steps: int) -> SummaryWriter:
        if self.writer is None or stage != self.stage:
            if self.writer is not None:
                self.writer.close()
            self.stage = stage
            self.writer = SummaryWriter(self.folder / "tensorboard" / stage, purge_step=steps)
        return self.writer

    def _open(self, progress: Progress) -> TextIO:
        """metrics.jsonl, without what a killed run wrote after the save that it goes on from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(path, "".join(line for line in lines if _before(line, progress)))
        return path.open("a", encoding="utf-8")


def _before(line: str, progress: Progress) -> bool:
    """Whether a line was written before `progress`; the last one may have been cut off."""
    try:
        point = json.loads(line)
    except ValueError:
        return False
    return bool(point["stage"] != progress.stage or point["steps"] < progress.steps)


class MonitorGroup:
    """Passes everything on to several monitors; any of them may stop the run."""

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self.monitors = monitors

    def progress(self, progress: Progress) -> None:
        """Pass on."""
        for monitor in self.monitors:
            monitor.progress(progress)

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        """Pass on."""
        for monitor in self.monitors:
            monitor.validated(progress, evaluation)

    def should_stop(self) -> bool:
        """Whether any monitor asks to stop."""
        return any(monitor.should_stop() for monitor in self.monitors)
