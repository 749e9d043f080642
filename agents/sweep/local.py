"""Workers on this machine: a process for each cell that is being trained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from snn_rl.agents.sweep.scheduler import Ending
from snn_rl.agents.sweep.worker import STOPPED

LOG = "worker.log"
_THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class LocalWorkers:
    """At most `count` processes; use as a context, which asks all that are left to save and end.

    They import `modules` first, which register environments. Each has its messages in worker.log
    of its run, and a group of its own, so that Ctrl-C in a terminal reaches the sweep alone.
    """

    def __init__(self, count: int, modules: Sequence[str] = ()) -> None:
        self.count, self.modules = count, modules
        self.processes: dict[Path, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for process in self.processes.values():
            process.wait()

    def free(self) -> bool:
        """Whether fewer than `count` are at work."""
        return len(self.processes) < self.count

    def start(self, folder: Path) -> None:
        """Start a process that trains the run in `folder`."""
        folder = folder.absolute()
        with (folder / LOG).open("ab") as log:
            self.processes[folder] = subprocess.Popen(
                [sys.executable, "-m", "snn_rl.agents.sweep.worker", str(folder), *self.modules],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_THREADS | os.environ,
                start_new_session=True,
            )

    def ended(self) -> list[tuple[Path, Ending]]:
        """Those whose process is over."""
        over = [folder for folder, process in self.processes.items() if process.poll() is not None]
        return [(folder, self._ending(folder)) for folder in over]

    def stop(self) -> None:
        """Close the input of all, which asks them to save and end."""
        for process in self.processes.values():
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()

    def _ending(self, folder: Path) -> Ending:
        process = self.processes.pop(folder)
        assert process.stdin is not None
        process.stdin.close()
        status = process.returncode
        if status < 0:
            return Ending("died", f"its process was ended by {_signal(-status)}")
        if status in (0, STOPPED):
            return Ending("stopped" if status else "done")
        return Ending("failed", _last_line(folder / LOG))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it left no message")
