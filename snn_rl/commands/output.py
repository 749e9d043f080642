"""Where the commands write: messages on stderr, results on stdout; exit statuses."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer
from rich.console import Console

if TYPE_CHECKING:
    from snn_rl.energy.report import EnergyReport

INTERRUPTED, FAILURE, BAD_INPUT = 130, 1, 2

FigureOption = Annotated[Path | None, typer.Option("--figure", help="Draw them into this PNG.")]


class Audience(io.TextIOBase):
    """Standard error for as long as anybody listens: when its pipe or terminal is closed, the rest
    goes nowhere and the work goes on."""

    @property
    def listener(self) -> TextIO:
        """Standard error itself: while a bar is shown, rich replaces it by one that writes here."""
        return cast(TextIO, getattr(sys.stderr, "rich_proxied_file", sys.stderr))

    def write(self, text: str) -> int:
        """Write, or do nothing."""
        with suppress(OSError, ValueError):
            self.listener.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or do nothing."""
        with suppress(OSError, ValueError):
            self.listener.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.listener.isatty()

    def fileno(self) -> int:
        """Its number."""
        return self.listener.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """How it writes text."""
        return getattr(self.listener, "encoding", None) or "utf-8"


terminal = Console(file=cast(TextIO, Audience()))
"""Messages and progress; standard output is for results."""


def say(text: str, style: str | None = None) -> None:
    """A line for the person who watches, on stderr and never wrapped."""
    plain = printable(text)
    terminal.print(plain, style=style, highlight=False, markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """`text` with its control characters, which could move a terminal's cursor, as escapes."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


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
