"""Watching a training: its progress, its records on disk, its clean end on signals."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Protocol, TextIO, TypeVar

from torch.utils.tensorboard import SummaryWriter

from snn_rl.runs.checkpoint import write_text
from snn_rl.runs.folder import METRICS, TENSORBOARD
from snn_rl.support.files import LARGEST_RECORDS, read_text

ENDINGS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Signals that end a training; not all systems have all of them."""

P = TypeVar("P", contravariant=True)
"""How a training tells where it stands."""
E = TypeVar("E", contravariant=True)
"""What its validations give."""


class Monitor(Protocol[P, E]):
    """Watches a training run."""

    def progress(self, progress: P) -> None:
        """Called after every roll-out or update."""

    def validated(self, progress: P, evaluation: E) -> None:
        """Called after every validation."""

    def should_stop(self) -> bool:
        """True ends training after the current roll-out or update."""


class StopFlag:
    """Set by a signal (or by the caller) to end training cleanly."""

    def __init__(self) -> None:
        self.raised = False

    @contextmanager
    def on_signals(self) -> Iterator[StopFlag]:
        """SIGINT and what schedulers send (SIGTERM, SIGHUP, SIGUSR1) raise the flag; a second
        SIGINT interrupts at once. A SIGHUP that is ignored already (nohup) stays so.

        Python takes signals in the main thread alone: in any other nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def raise_flag(number: int, _: FrameType | None) -> None:
            if self.raised and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.raised = True

        known = (getattr(signal, name, None) for name in ENDINGS)
        numbers = [n for n in known if n is not None and not _outlived(n)]
        previous = [signal.signal(number, raise_flag) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)


def _outlived(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN and signal.Signals(number).name == "SIGHUP"


class MonitorGroup(Generic[P, E]):
    """Passes everything on to several monitors; any of them, or the flag, may stop the run."""

    def __init__(self, monitors: Sequence[Monitor[P, E]], stop: StopFlag) -> None:
        self.monitors, self.stop = monitors, stop

    def progress(self, progress: P) -> None:
        """Pass on."""
        for monitor in self.monitors:
            monitor.progress(progress)

    def validated(self, progress: P, evaluation: E) -> None:
        """Pass on."""
        for monitor in self.monitors:
            monitor.validated(progress, evaluation)

    def should_stop(self) -> bool:
        """Whether anyone asks to stop."""
        return self.stop.raised or any(monitor.should_stop() for monitor in self.monitors)


class Records:
    """metrics.jsonl and TensorBoard of a run.

    Nothing is written before the first line, so that a refused run leaves no folder behind.

    Args:
        folder: of the run.
        clock: the lines' entry that counts how far their stage is.
    """

    def __init__(self, folder: Path, clock: str) -> None:
        self.folder, self.clock = folder, clock
        self.file: TextIO | None = None
        self.writer: SummaryWriter | None = None
        self.stage = ""
        self.now, self.drawn = -1, set[str]()  # TensorBoard's scalars of the newest moment

    def add(self, line: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """A line, with `stage` and the clock's entry, and values for TensorBoard, which draws each
        once at a moment."""
        if self.file is None:
            self.file = self._open(line)
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        now = int(line[self.clock])
        if self.writer is None or line["stage"] != self.stage:
            if self.writer is not None:
                self.writer.close()
            self.stage, self.now = line["stage"], -1
            self.writer = SummaryWriter(self.folder / TENSORBOARD / self.stage, purge_step=now)
        if now != self.now:
            self.now, self.drawn = now, set()
        for name, value in scalars.items():
            if name not in self.drawn:
                self.writer.add_scalar(name, value, now)
        self.drawn |= scalars.keys()
        self.writer.flush()  # whoever is killed loses none

    def close(self) -> None:
        """Flush and close the files."""
        if self.file is not None:
            self.file.close()
        if self.writer is not None:
            self.writer.close()

    def _open(self, first: Mapping[str, Any]) -> TextIO:
        """metrics.jsonl, without what a killed run wrote after the save that it goes on from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / METRICS
        if path.exists():
            lines = read_text(path, LARGEST_RECORDS).splitlines(keepends=True)
            write_text(path, "".join(line for line in lines if self._before(line, first)))
        return path.open("a", encoding="utf-8")

    def _before(self, line: str, first: Mapping[str, Any]) -> bool:
        """Whether a line was written before `first`; the last one may have been cut off."""
        if not line.endswith("\n"):
            return False
        try:
            point = json.loads(line)
        except ValueError:
            return False
        return bool(point["stage"] != first["stage"] or point[self.clock] < first[self.clock])


class FileMonitor(Generic[P, E]):
    """Writes a run's records: a line now and then, and every validation.

    Args:
        records: of the run.
        describe: makes a line and TensorBoard's values of the progress, and of an evaluation
            where there is one.
        seconds_between: lines without a validation come no closer than this.
    """

    def __init__(
        self,
        records: Records,
        describe: Callable[[P, E | None], tuple[Mapping[str, Any], Mapping[str, float]]],
        seconds_between: float,
    ) -> None:
        self.records, self.describe, self.pause = records, describe, seconds_between
        self.written = 0.0

    def progress(self, progress: P) -> None:
        """Write a line unless the last one is too fresh."""
        if time.monotonic() - self.written >= self.pause:
            self._write(progress, None)

    def validated(self, progress: P, evaluation: E) -> None:
        """Write a line with the validation."""
        self._write(progress, evaluation)

    def should_stop(self) -> bool:
        """Files never stop a run."""
        return False

    def close(self) -> None:
        """Flush and close the files."""
        self.records.close()

    def _write(self, progress: P, evaluation: E | None) -> None:
        self.written = time.monotonic()
        self.records.add(*self.describe(progress, evaluation))
