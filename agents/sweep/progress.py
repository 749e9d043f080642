"""Where a sweep's cells stand, read from their folders, and one view of all of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from snn_rl.agents.sweep.manifest import Cell
from snn_rl.agents.sweep.scheduler import Course, State
from snn_rl.runs.folder import METRICS

TAIL = 8192
"""Bytes at the end of metrics.jsonl that hold its last whole line."""
SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_LINES = 1.0, 10.0
_ORDER: tuple[State, ...] = ("running", "failed", "stopped", "waiting", "done")
_COLOURS = {"running": "cyan", "failed": "red", "done": "green"}


@dataclass(frozen=True)
class Standing:
    """A cell at a moment; `done` is the part of its steps that is taken, from 0 to 1. Stages that
    reach their target early count as whole."""

    name: str
    state: State
    done: float
    text: str


def standing(folder: Path, cell: Cell, state: State) -> Standing:
    """Of the cell whose run is in `folder`."""
    point = last_point(folder / METRICS)
    if state == "done":
        return Standing(cell.name, state, 1.0, "")
    if point is None:
        return Standing(cell.name, state, 0.0, "")
    stages = cell.stages
    before = stages.index(point["stage"]) if point["stage"] in stages else 0
    within = min(1.0, point["steps"] / max(1, point.get("total_steps", 0)))
    if point["stage"] not in stages:  # a teacher's
        within = 0.0
    parts = [point["stage"], f"{point['steps']:,} steps"]
    if point.get("mean_reward") is not None:
        parts.append(f"reward {point['mean_reward']:.1f}")
    return Standing(cell.name, state, (before + within) / len(stages), "  ".join(parts))


def last_point(path: Path) -> dict[str, Any] | None:
    """The last whole line of metrics.jsonl, if there is one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().split(b"\n")[:-1]
        found = json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"stage", "steps"} <= found.keys() else None


class SweepView:
    """A table of all cells that renews itself; plain lines where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self.looked = -float("inf")

    def __enter__(self) -> SweepView:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, course: Course) -> None:
        """Show where the cells stand, unless that was just done."""
        pause = SECONDS_BETWEEN_LOOKS if self.live else SECONDS_BETWEEN_LINES
        if time.monotonic() - self.looked < pause:
            return
        self.looked = time.monotonic()
        cells = {cell.name: cell for cell in course.sweep.cells}
        all_of_them = [
            standing(course.sweep.path(cells[name]), cells[name], state)
            for name, state in course.states.items()
        ]
        if self.live:
            self.live.update(_table(all_of_them, self.console.height - 5), refresh=True)
        else:
            self.console.print(line(all_of_them), highlight=False, markup=False, soft_wrap=True)


def line(cells: Sequence[Standing]) -> str:
    """All cells in one line: how many stand where, and how far those are that run."""
    running = [f"{c.name} {c.done:.0%} {c.text}".rstrip() for c in cells if c.state == "running"]
    return " | ".join([_summary(cells), *running])


def _summary(cells: Sequence[Standing]) -> str:
    counts = {state: sum(cell.state == state for cell in cells) for state in reversed(_ORDER)}
    listed = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    whole = sum(cell.done for cell in cells) / max(1, len(cells))
    return f"{whole:.0%} of {len(cells)} cells: {listed}"


def _table(cells: Sequence[Standing], rows: int) -> Table:
    """Those that run first, as many as fit the screen."""
    table = Table(box=None, title=_summary(cells), title_justify="left", show_header=False)
    shown = sorted(cells, key=lambda cell: _ORDER.index(cell.state))[: max(1, rows)]
    for cell in shown:
        bar = ProgressBar(1.0, cell.done, width=20)
        state = f"[{_COLOURS.get(cell.state, 'white')}]{cell.state}"
        table.add_row(cell.name, bar, f"{cell.done:.0%}", state, cell.text)
    return table
