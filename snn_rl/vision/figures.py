"""The figures of a vision report, drawn without any global state of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from snn_rl.runs.records import CurvePoint
from snn_rl.support.plotting import GREY, PALE, RED, new_figure

Row = Mapping[str, Any]


class EpochPoint(CurvePoint):
    """One line of metrics.jsonl, by images seen."""

    images: int
    epoch: int


def draw_accuracy(rows: Sequence[Row]) -> Figure:
    """Test accuracy of every stage as a bar, the paper's as a line where it has one."""
    figure, axes = new_figure(max(5.0, 1.6 + 1.0 * len(rows)), 4.0)
    accuracies = [row["accuracy"] for row in rows]
    colours = [PALE if row["spike_rates"] else GREY for row in rows]
    axes.bar(range(len(rows)), accuracies, width=0.62, color=colours, zorder=2)
    for x, row in enumerate(rows):
        y, label = row["accuracy"], f"{row['accuracy']:.2f}"
        axes.annotate(label, (x, y), (0, 3), textcoords="offset points", ha="center")
        if row.get("paper") is not None:
            axes.hlines(row["paper"], x - 0.4, x + 0.4, color=RED, linewidth=2, zorder=3)
    if any(row.get("paper") is not None for row in rows):
        axes.plot([], [], color=RED, label="the paper")
        axes.legend(frameon=False)
    axes.set_xticks(range(len(rows)), [row["stage"] for row in rows])
    axes.set_ylim(max(0.0, min(accuracies) - 10), min(100.0, max(accuracies) + 5))
    axes.set_ylabel("test accuracy, %")
    return figure


def draw_spike_rates(rates: Mapping[str, Mapping[str, float]]) -> Figure:
    """Spikes per neuron per image of every layer, a line for each entry of `rates` (Fig. 1d)."""
    layers = list(dict.fromkeys(layer for found in rates.values() for layer in found))
    figure, axes = new_figure(max(6.0, 2.5 + 0.45 * len(layers)), 4.2)
    colours = colormaps["viridis"](np.linspace(0, 0.9, max(len(rates), 2)))
    for colour, (name, found) in zip(colours, rates.items(), strict=False):
        values = [found.get(layer, float("nan")) for layer in layers]
        style = "--" if "before" in name else "-"
        axes.plot(layers, values, style, marker="o", markersize=4, color=colour, label=name)
    axes.set_ylabel("spikes per neuron per image")
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", rotation=60 if len(layers) > 6 else 0)
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_learning(points: Sequence[EpochPoint]) -> Figure:
    """Validation accuracy after every epoch, stages one after the other."""
    figure, axes = new_figure(8.0, 4.0)
    offset = 0
    for stage in dict.fromkeys(point.stage for point in points):
        found = [(p.epoch, p.validation) for p in points if p.stage == stage]
        dots = [(offset + epoch, 100 * share) for epoch, share in found if share is not None]
        epochs = [epoch for epoch, _ in dots]
        axes.plot(epochs, [percent for _, percent in dots], "-o", markersize=3, label=stage)
        offset = max(epochs, default=offset)
        axes.axvline(offset, color=GREY, linewidth=0.6)
    axes.set_xlabel("epochs, all stages one after the other")
    axes.set_ylabel("validation accuracy, %")
    axes.legend(frameon=False, ncols=2, fontsize=9)
    return figure
