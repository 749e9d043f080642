"""What all figures share: an empty canvas, colours, and files written at one go."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snn_rl.support.files import temporary

# Paul Tol's "bright" scheme, safe for colour-blind readers, and a pale blue
BLUE, RED, GREY, PALE = "#4477aa", "#ee6677", "#bbbbbb", "#b4c9dd"
MUTED = "#6b6b6b"
DPI = 130


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure, in inches, without any global state of matplotlib."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    return figure, axes


def tidy(axes: Axes) -> None:
    """Two spines, and a pale grid of horizontal lines behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, color=MUTED)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = temporary(path)
    try:
        figure.savefig(unfinished, format="png", metadata={"Software": None})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
