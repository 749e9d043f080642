"""Figures of a vision report show the numbers that they are drawn from."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection

from snn_rl.support.plotting import GREY, PALE
from snn_rl.vision.figures import EpochPoint, draw_accuracy, draw_learning, draw_spike_rates


def test_accuracy_has_a_bar_per_stage_and_the_papers_line() -> None:
    rows = [
        {"stage": "ann", "accuracy": 91.5, "spike_rates": {}},
        {"stage": "T1", "accuracy": 88.25, "spike_rates": {"lif": 0.2}, "paper": 93.05},
    ]
    (axes,) = draw_accuracy(rows).axes
    assert [bar.get_height() for bar in axes.patches] == [91.5, 88.25]
    assert [text.get_text() for text in axes.texts] == ["91.50", "88.25"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ann", "T1"]
    (line,) = (found for found in axes.collections if isinstance(found, LineCollection))
    np.testing.assert_allclose(line.get_segments()[0], [[0.6, 93.05], [1.4, 93.05]])
    assert GREY != PALE
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()


def test_spike_rates_have_a_line_per_stage_over_all_layers() -> None:
    rates = {"T2": {"lif1": 0.4, "lif2": 0.1}, "T1": {"lif1": 0.3}}
    (axes,) = draw_spike_rates(rates).axes
    first, second = axes.lines
    assert [first.get_label(), second.get_label()] == ["T2", "T1"]
    np.testing.assert_array_equal(first.get_ydata(), [0.4, 0.1])
    np.testing.assert_array_equal(second.get_ydata(), [0.3, np.nan])


def test_learning_puts_stages_behind_each_other() -> None:
    points = [
        EpochPoint(stage=stage, seconds=1.0, images=10 * epoch, epoch=epoch, validation=share)
        for stage, epoch, share in [("ann", 1, 0.5), ("ann", 2, 0.75), ("T1", 1, 0.6)]
    ]
    (axes,) = draw_learning(points).axes
    lines = [line for line in axes.lines if line.get_label() in ("ann", "T1")]
    assert [line.get_xydata().tolist() for line in lines] == [[[1, 50], [2, 75]], [[3, 60]]]
