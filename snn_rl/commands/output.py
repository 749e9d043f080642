"""Where the commands write: messages on stderr, results on stdout; exit statuses."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

INTERRUPTED, FAILURE, BAD_INPUT = 130, 1, 2

screen = Console(stderr=True)
"""Messages and progress; standard output is for results."""


def say(text: str) -> None:
    """A line for the person who watches, on stderr and never wrapped."""
    screen.print(text, highlight=False, markup=False, soft_wrap=True)


def show(*tables: Any) -> None:
    """Tables on stdout; in a file or pipe they need not fit a screen."""
    console = Console()
    Console(width=None if console.is_terminal else 200).print(*tables)


def show_json(rows: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(rows, indent=1) + "\n")
