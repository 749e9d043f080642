"""Trains one cell, wherever it stands: the same function in a process here and in a Ray task.

As a program, `python -m snn_rl.agents.sweep.worker RUN_FOLDER [MODULE ...]`, it goes on until its
standard input is closed: whoever started it asks it to save and end in this way, by intent or by
dying.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from snn_rl.agents.agent import Agent
from snn_rl.agents.evaluation import Evaluation
from snn_rl.agents.monitor import Monitor, Progress, file_monitor
from snn_rl.agents.results import is_finished, unfinished
from snn_rl.agents.run import Run
from snn_rl.envs import import_environments
from snn_rl.errors import SnnRlError
from snn_rl.runs.folder import Interrupted
from snn_rl.runs.monitor import MonitorGroup, StopFlag
from snn_rl.runs.owner import InUse
from snn_rl.support.allocator import keep_freed_memory

STOPPED, FAILED = 130, 1
"""Exit statuses."""
WAIT_FOR_FOLDER = 120.0
"""Seconds in which a former worker of the cell must have ended, or its lock must be given up."""
SECONDS_BETWEEN_LOOKS = 0.5


class StopWhen:
    """A monitor that asks to stop once `asked` is true, which it looks at now and then."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.asked, self.stop, self.looked = asked, False, -float("inf")

    def progress(self, progress: Progress) -> None:
        """Nothing to do."""

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        """Nothing to do."""

    def should_stop(self) -> bool:
        """Whether it has been asked."""
        if not self.stop and time.monotonic() - self.looked >= SECONDS_BETWEEN_LOOKS:
            self.looked = time.monotonic()
            self.stop = self.asked()
        return self.stop


def train_cell(folder: Path, asked: Callable[[], bool], modules: Sequence[str] = ()) -> None:
    """Train the run in `folder` from where it was saved last; nothing if it is finished.

    Signals that end a process (SIGINT, SIGTERM) let it save first.

    Args:
        folder: holds the run's configuration, at least.
        asked: whether to save and end now.
        modules: register environments, and are imported first.

    Raises:
        Interrupted: it was stopped; what was reached is saved.
        SnnRlError: bad settings, or another process keeps the folder.
    """
    keep_freed_memory()
    for module in modules:
        import_environments(module)
    stop = StopFlag()
    files = file_monitor(folder)
    monitor: Monitor = MonitorGroup([files, StopWhen(asked)], stop)
    waited_until = time.monotonic() + WAIT_FOR_FOLDER
    try:
        with stop.on_signals():
            while not is_finished(folder):
                if monitor.should_stop():
                    raise Interrupted("none")
                try:
                    _train(folder, monitor)
                except InUse:
                    if time.monotonic() > waited_until:
                        raise
                    time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        files.close()


def _train(folder: Path, monitor: Monitor) -> dict[str, Agent]:
    config, command = unfinished(folder)
    return Run(config, folder, monitor, command=command).train()


def main() -> int:
    """Exit status: 0 done, 130 stopped and saved, else failed, the last line saying why."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    closed = threading.Event()

    def watch() -> None:
        while os.read(0, 1):
            pass
        closed.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        train_cell(Path(sys.argv[1]), closed.is_set, sys.argv[2:])
    except Interrupted:
        return STOPPED
    except SnnRlError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return FAILED
    except Exception as error:
        logging.getLogger(__name__).exception("the run failed")
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
