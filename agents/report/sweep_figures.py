"""The figures of a sweep's report: scores with intervals, learning curves over runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from snn_rl.agents.report.figures import INK, SMALL, TEXT, stage_label, thousands
from snn_rl.agents.sweep.statistics import Estimate
from snn_rl.support.plotting import BLUE, DPI, PALE, new_figure, tidy

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Of variants, from Paul Tol's "bright" scheme; from the eighth on they begin anew."""
COLUMNS = 3


@dataclass(frozen=True)
class Curve:
    """Greedy reward over the steps of a stage, of all runs of a variant together.

    Attributes:
        runs: how many.
        steps, middle, low, high: [points]; interquartile mean and the ends of its interval.
    """

    variant: str
    stage: str
    runs: int
    steps: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def draw_scores(
    rows: Sequence[tuple[str, str, NDArray[np.float64], Estimate]],
) -> Figure:
    """A line for each (name, stage, scores [runs], interquartile mean), the first one on top."""
    longest = max(len(name) for name, *_ in rows)
    figure, axes = new_figure(6.4 + min(3.5, 0.07 * longest), 1.1 + 0.42 * len(rows))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8, zorder=0)
    rng = np.random.default_rng(0)
    for place, (_, _, scores, found) in enumerate(rows):
        if not np.isnan(found.low):
            span = found.high - found.low
            axes.barh(place, span, left=found.low, height=0.5, color=PALE, zorder=2)
        axes.plot([found.value] * 2, [place - 0.3, place + 0.3], color=BLUE, linewidth=3, zorder=3)
        jitter = rng.uniform(-0.15, 0.15, len(scores))
        axes.scatter(scores, place + jitter, s=16, color=INK, alpha=0.6, linewidths=0, zorder=4)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.use_sticky_edges = False  # bars would put the lowest scores on the frame
    axes.margins(x=0.04)
    axes.set_xlabel("score: mean reward per game", fontsize=TEXT)
    return figure


def draw_curves(curves: Sequence[Curve]) -> Figure:
    """A panel for each stage, a line with its interval for each variant."""
    stages = list(dict.fromkeys(curve.stage for curve in curves))
    variants = list(dict.fromkeys(curve.variant for curve in curves))
    columns = min(COLUMNS, len(stages))
    lines = -(-len(stages) // columns)
    figure = Figure(figsize=(max(6.0, 3.7 * columns), 3.1 * lines), dpi=DPI, layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, stage in zip(panels, stages, strict=False):
        tidy(axes)
        for curve in (curve for curve in curves if curve.stage == stage):
            colour = COLOURS[variants.index(curve.variant) % len(COLOURS)]
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.2, lw=0)
            marker = None
            if len(curve.steps) == 1:  # a band without width would not be seen
                marker = "o"
                axes.vlines(curve.steps, curve.low, curve.high, color=colour, alpha=0.4, lw=4)
            axes.plot(curve.steps, curve.middle, color=colour, linewidth=1.8, marker=marker)
        runs = sorted({curve.runs for curve in curves if curve.stage == stage})
        counted = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]}–{runs[-1]}"
        noun = "run" if counted == "1" else "runs"
        axes.set_title(f"{stage_label(stage)} ({counted} {noun})", fontsize=TEXT)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        axes.set_xlabel("environment steps of the stage", fontsize=SMALL)
    for axes in panels[len(stages) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("greedy reward", fontsize=TEXT)
    if len(variants) > 1:
        _name_variants(figure, variants)
    return figure


def _name_variants(figure: Figure, variants: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=1.8, label=variant)
        for i, variant in enumerate(variants)
    ]
    columns = 2 if max(map(len, variants)) < 40 else 1
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False)
