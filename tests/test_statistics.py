"""Statistics over runs: against hand-made numbers and known distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_rl.agents.sweep.statistics import (
    Scores,
    improvement_interval,
    interquartile_interval,
    interquartile_mean,
    probability_of_improvement,
)


def column(*values: float) -> Scores:
    return np.array(values, float)[:, None]


def test_a_quarter_of_the_scores_is_left_out_at_either_end() -> None:
    assert interquartile_mean(column(9, 1, 2, 3, 100)) == pytest.approx((2 + 3 + 9) / 3)
    assert interquartile_mean(column(1, 2, 6)) == 3  # ⌊3 / 4⌋ = 0
    assert interquartile_mean(column(*range(8))) == 3.5
    assert interquartile_mean(column(4)) == 4


def test_runs_and_tasks_are_pooled_for_the_interquartile_mean() -> None:
    scores = np.array([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0], [3.0, 13.0]])
    assert interquartile_mean(scores) == np.mean([2, 3, 10, 11])


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
)
def test_improvement_counts_pairs(mine: list[int], theirs: list[int]) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(mine, theirs)]
    found = probability_of_improvement(column(*mine), column(*theirs))
    assert found == pytest.approx(np.mean(pairs))
    back = probability_of_improvement(column(*theirs), column(*mine))
    assert found + back == pytest.approx(1)


def test_improvement_is_averaged_over_tasks() -> None:
    mine = np.array([[5.0, 0.0], [6.0, 1.0]])
    theirs = np.array([[1.0, 0.0], [2.0, 1.0], [3.0, 9.0]])
    # Won always, then (½ + 0 + 0 + 1 + ½ + 0) of 6.
    assert probability_of_improvement(mine, theirs) == pytest.approx((1 + 2 / 6) / 2)


def test_the_interval_is_that_of_all_draws() -> None:
    """Of two runs a draw is (a, a), (a, b), (b, a) or (b, b): its mean has three values."""
    found = interquartile_interval(column(0, 1), draws=4000)
    assert (found.value, found.low, found.high) == (0.5, 0, 1)
    same = interquartile_interval(column(7, 7, 7))
    assert (same.low, same.high) == (7, 7)


def test_strata_are_drawn_by_themselves() -> None:
    """Tasks of far apart scores: pooled draws would mix them, and their mean would vary."""
    scores = np.array([[0.0, 100.0]] * 4)
    found = interquartile_interval(scores)
    assert (found.value, found.low, found.high) == (50, 50, 50)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        scores = generator.normal(size=(40, 1))
        found = interquartile_interval(scores, draws=500, seed=trial)
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_of_an_improvement() -> None:
    apart = improvement_interval(column(5, 6, 7), column(1, 2, 3))
    assert (apart.value, apart.low, apart.high) == (1, 1, 1)
    mixed = improvement_interval(column(1, 3, 5, 7), column(2, 4, 6, 8))
    assert mixed.low < mixed.value < mixed.high
    assert mixed == improvement_interval(column(1, 3, 5, 7), column(2, 4, 6, 8))


def test_a_single_run_has_no_interval() -> None:
    assert np.isnan(interquartile_interval(column(3)).low)
    assert np.isnan(improvement_interval(column(3), column(1, 2)).high)
