"""Where the commands write: messages on stderr, results on stdout; exit statuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from snn_rl.energy.report import EnergyReport

INTERRUPTED, FAILURE, BAD_INPUT = 130, 1, 2

FigureOption = Annotated[Path | None, typer.Option("--figure", help="Draw them into this PNG.")]

terminal = Console(stderr=True)
"""Messages and progress; standard output is for results."""


def say(text: str) -> None:
    """A line for the person who watches, on stderr and never wrapped."""
    terminal.print(text, highlight=False, markup=False, soft_wrap=True)


def show(*tables: Any) -> None:
    """Tables on stdout; in a file or pipe they need not fit a screen."""
    console = Console()
    Console(width=None if console.is_terminal else 200).print(*tables)


def show_json(rows: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(rows, indent=1) + "\n")


def show_energy(
    reports: Mapping[str, EnergyReport], per: str, figure: Path | None, *, tables: bool
) -> None:
    """Energy of stages per frame or image: as tables, and in a picture, if one is named."""
    from snn_rl.energy.views import draw_reports, layer_table, summary_tables
    from snn_rl.support.plotting import save_figure

    if tables:
        spiking = {name: found for name, found in reports.items() if found.neurons}
        show(*(layer_table(name, found) for name, found in spiking.items()))
        show(*summary_tables(reports, per))
    if figure is not None:
        save_figure(draw_reports(reports, per), figure)
        say(f"figure: {figure}")
