"""The figures of a run's report, drawn without any global state of matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from snn_rl.agents.report.records import Point, StageScore
from snn_rl.conversion.temporal_pruning import VANISHING_RATE
from snn_rl.support.plotting import BLUE, DPI, MUTED, PALE, RED, new_figure, tidy

INK, PALE_GREY = "#222222", "#dcdcdc"
TEXT, SMALL = 11, 9.5
_LEADER = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}


def draw_rewards(scores: Sequence[StageScore]) -> Figure:
    """Mean reward per stage as bars with their standard deviation, every trial as a dot."""
    figure, axes = new_figure(max(5.0, 1.7 + 1.15 * len(scores)), 4.4)
    rng = np.random.default_rng(0)
    for x, score in enumerate(scores):
        colour = PALE if score.spike_rates else PALE_GREY
        axes.bar(x, score.mean_reward, width=0.62, color=colour, zorder=2)
        jitter = rng.uniform(-0.2, 0.2, score.trials)
        axes.scatter(x + jitter, score.rewards, s=13, color=INK, alpha=0.5, linewidths=0, zorder=3)
    axes.errorbar(
        range(len(scores)),
        [score.mean_reward for score in scores],
        [score.std_reward for score in scores],
        fmt="_",
        color=RED,
        markersize=15,
        markeredgewidth=2,
        elinewidth=2,
        capsize=5,
        capthick=2,
        zorder=4,
        label="mean ± standard deviation",
    )
    axes.scatter([], [], s=13, color=INK, alpha=0.5, linewidths=0, label="one trial (episode)")
    axes.axhline(0, color=INK, linewidth=0.8, zorder=2)
    labels = [
        f"{stage_label(s.stage)}\n{format_reward(s.mean_reward)} ± {format_reward(s.std_reward)}"
        for s in scores
    ]
    axes.set_xticks(range(len(scores)), labels)
    margin = 0.6 if len(scores) > 2 else 1.0
    axes.set_xlim(-margin, len(scores) - 1 + margin)
    axes.set_ylabel("reward per episode", fontsize=TEXT)
    _legend(axes, 2)
    return figure


def draw_spike_rates(scores: Sequence[StageScore]) -> Figure:
    """Spike rate of every layer, grouped by stage; silent layers are marked with a 0."""
    scores = [score for score in scores if score.spike_rates]
    layers = list(dict.fromkeys(layer for score in scores for layer in score.spike_rates))
    legend_width = 1.9 if len(layers) <= 16 else 3.4
    width = max(4.0, 1.2 + len(scores) * max(0.8, 0.24 * len(layers)))
    figure, axes = new_figure(min(width, 13.0) + legend_width, 4.0)
    colours = colormaps["cividis"](np.linspace(0.08, 0.92, max(len(layers), 2)))
    bar = min(0.8 / len(layers), 0.35)
    for index, layer in enumerate(layers):
        rates = [score.spike_rates.get(layer, float("nan")) for score in scores]
        x = np.arange(len(scores)) + (index - (len(layers) - 1) / 2) * bar
        label = f"{index + 1} ({layer})"
        axes.bar(x, rates, width=0.88 * bar, color=colours[index], label=label, zorder=2)
        for position, rate in zip(x, rates, strict=True):
            if rate < VANISHING_RATE:
                axes.annotate(
                    "0",
                    (position, 0),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=SMALL,
                    color=RED,
                    fontweight="bold",
                )
    axes.set_xticks(range(len(scores)), [stage_label(score.stage) for score in scores])
    margin = 0.6 if len(scores) > 2 else 0.9
    axes.set_xlim(-margin, len(scores) - 1 + margin)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("spikes per neuron per frame", fontsize=TEXT)
    legend = axes.legend(
        title="layer (input to output)",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        frameon=False,
        fontsize=SMALL,
        ncols=1 if len(layers) <= 16 else 2,
    )
    legend.get_title().set_fontsize(SMALL)
    return figure


def draw_learning(points: Sequence[Point]) -> Figure:
    """Training reward and validations, stages one after the other, over steps and wall time."""
    figure = Figure(figsize=(9.5, 6.6), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1)
    _curves(upper, points, lambda point: point.steps)
    total = sum(max(p.seconds for p in stage) for stage in _by_stage(points).values())
    unit, name = (1, "s") if total < 180 else (60, "minutes") if total < 10_800 else (3600, "hours")
    _curves(lower, points, lambda point: point.seconds / unit)
    upper.set_xlabel("environment steps, all stages one after the other", fontsize=TEXT)
    lower.set_xlabel(f"wall-clock time of training ({name})", fontsize=TEXT)
    upper.xaxis.set_major_formatter(FuncFormatter(thousands))
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=SMALL
    )
    return figure


def stage_label(stage: str) -> str:
    """Stage as people write it."""
    return "ANN" if stage == "ann" else stage


def format_reward(value: float) -> str:
    """At most four digits, one decimal below 1000."""
    whole = abs(value) >= 1000 or value == round(value)
    return (f"{value:.0f}" if whole else f"{value:.1f}").replace("-", "−")


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        borderaxespad=0.2,
    )


def _by_stage(points: Sequence[Point]) -> dict[str, list[Point]]:
    stages: dict[str, list[Point]] = {}
    for point in points:
        stages.setdefault(point.stage, []).append(point)
    return stages


def _curves(axes: Axes, points: Sequence[Point], place: Callable[[Point], float]) -> None:
    """Both curves over `place` of a point, its stage's start added."""
    tidy(axes)
    start = 0.0
    middles: list[float] = []
    names: list[str] = []
    for stage, members in _by_stage(points).items():
        end = start + max(place(point) for point in members)
        trained = [(start + place(p), p.mean_reward) for p in members if p.mean_reward is not None]
        judged = [(start + place(p), p.validation) for p in members if p.validation is not None]
        first = not names
        axes.plot(
            *_columns(trained),
            color=BLUE,
            linewidth=1.6,
            label="training: mean of the last 100 episodes" if first else None,
        )
        axes.plot(
            *_columns(judged),
            "o",
            color=RED,
            markersize=4.5,
            label="validation: greedy episodes" if first else None,
        )
        if not first:
            axes.axvline(start, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        middles.append((start + end) / 2)
        names.append(stage_label(stage))
        start = end
    axes.set_xlim(0, 1.01 * start or 1)
    axes.margins(y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.set_ylabel("reward per episode", fontsize=TEXT)
    _name_stages(axes, middles, names, start or 1.0)


def _name_stages(axes: Axes, middles: list[float], names: list[str], width: float) -> None:
    """Names above the stages, kept apart where stages are short."""
    gap = min(0.045 * width, width / len(names))
    places = list(middles)
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    limit = width
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    shifts = [
        abs(place - middle) > 0.01 * width for middle, place in zip(middles, places, strict=True)
    ]
    for middle, place, name, shifted in zip(middles, places, names, shifts, strict=True):
        axes.annotate(
            name,
            (middle, 1.0),
            (place, 1.07 if any(shifts) else 1.015),
            xycoords=("data", "axes fraction"),
            textcoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=SMALL,
            color=INK,
            arrowprops=_LEADER if shifted else None,
        )


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def thousands(value: float, _: int) -> str:
    """A number of steps on an axis."""
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"
