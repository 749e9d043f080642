"""Runs a sweep's cells on workers: in order, again after a worker's death, until all have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from snn_rl.agents.sweep.manifest import Cell, Sweep
from snn_rl.runs.checkpoint import CARD
from snn_rl.runs.resume import RESUME, STATE

DEATHS = 5
"""A cell fails that lost so many workers in a row without a save in between."""
PAUSE = 0.1

State = Literal["waiting", "running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class Ending:
    """How a worker ended: it finished the cell, was stopped, failed with a reason, or just died."""

    kind: Literal["done", "stopped", "failed", "died"]
    reason: str = ""


class Workers(Protocol):
    """Where cells are trained: a run folder goes in, an ending comes out."""

    def free(self) -> bool:
        """Whether one more cell may be started."""

    def start(self, folder: Path) -> None:
        """Begin to train the run in `folder`, or go on with it."""

    def ended(self) -> list[tuple[Path, Ending]]:
        """The cells that have ended since the last call."""

    def stop(self) -> None:
        """Ask all to save and end; they are still to be waited for."""


@dataclass
class Course:
    """Where the sweep's cells stand.

    Attributes:
        states: by name of the cell.
        reasons: why cells failed, by name.
        restarts: how many workers died and were replaced.
    """

    sweep: Sweep
    states: dict[str, State]
    reasons: dict[str, str] = field(default_factory=dict)
    restarts: int = 0

    def named(self, state: State) -> list[str]:
        """Names of the cells in this state."""
        return [name for name, now in self.states.items() if now == state]


def run_cells(
    sweep: Sweep,
    workers: Workers,
    asked: Callable[[], bool],
    show: Callable[[Course], None] = lambda _: None,
    only: Sequence[Cell] | None = None,
) -> Course:
    """Train all cells that are not finished yet; a cell that fails does not end the others.

    Args:
        asked: whether all should save and end.
        show: called again and again.
        only: these cells, by default all.
    """
    cells = sweep.cells if only is None else only
    states: dict[str, State] = {
        cell.name: "done" if sweep.finished(cell) else "waiting" for cell in cells
    }
    return _Scheduler(sweep, cells, workers, Course(sweep, states)).run(asked, show)


class _Scheduler:
    def __init__(
        self, sweep: Sweep, cells: Sequence[Cell], workers: Workers, course: Course
    ) -> None:
        self.sweep, self.workers, self.course = sweep, workers, course
        self.cells = {cell.name: cell for cell in cells}
        self.deaths: dict[str, tuple[object, int]] = {}

    def run(self, asked: Callable[[], bool], show: Callable[[Course], None]) -> Course:
        """Until nothing runs and nothing can be started."""
        stopping = False
        while True:
            if asked() and not stopping:
                stopping = True
                self.workers.stop()
            if not stopping:
                self._start()
            for folder, ending in self.workers.ended():
                self._note(folder.relative_to(self.sweep.folder).as_posix(), ending, stopping)
            show(self.course)
            if not self.course.named("running") and (stopping or not self._next()):
                return self.course
            time.sleep(PAUSE)

    def _start(self) -> None:
        while self.workers.free() and (cell := self._next()):
            self.workers.start(self.sweep.path(cell))
            self.course.states[cell.name] = "running"

    def _next(self) -> Cell | None:
        """The first cell that can be started; those that never can are marked as failed."""
        for name in self.course.named("waiting"):
            before = self._unfinished_before(self.cells[name])
            failed = [other for other in before if self.course.states.get(other) == "failed"]
            if failed:
                self._fail(name, f"it needs {failed[0]}, which failed")
            elif not before:
                return self.cells[name]
        return None

    def _unfinished_before(self, cell: Cell) -> list[str]:
        return [name for name in cell.after if self.course.states.get(name, "done") != "done"]

    def _note(self, name: str, ending: Ending, stopping: bool) -> None:
        if ending.kind == "done":
            self.course.states[name] = "done"
        elif ending.kind == "failed":
            self._fail(name, ending.reason)
        elif stopping:  # one that died now goes on from its last save, too
            self.course.states[name] = "stopped"
        elif self._too_many_deaths(name):
            self._fail(name, f"{DEATHS} workers died before its next save: {ending.reason}")
        else:
            self.course.states[name] = "waiting"
            self.course.restarts += 1

    def _fail(self, name: str, reason: str) -> None:
        self.course.states[name] = "failed"
        self.course.reasons[name] = reason

    def _too_many_deaths(self, name: str) -> bool:
        saved = last_save(self.sweep.folder / name)
        before, count = self.deaths.get(name, (saved, 0))
        count = count + 1 if before == saved else 1
        self.deaths[name] = (saved, count)
        return count >= DEATHS


def last_save(run: Path) -> tuple[str, ...]:
    """What changes whenever a run saves something that it will not do again."""
    stages = sorted(path.parent.name for path in run.glob(f"[!.]*/{CARD}"))
    state = run / RESUME / STATE
    return (*stages, str(state.stat().st_mtime_ns) if state.exists() else "")
