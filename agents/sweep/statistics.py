"""What several runs say together: interquartile means, bootstrap intervals, who is better.

The conventions are those of rliable (Agarwal et al. 2021, "Deep reinforcement learning at the edge
of the statistical precipice"). Scores are [runs, tasks], a run's score being its mean over games:

- the **interquartile mean** is the mean of all scores, of all runs and tasks together, without the
  lowest and the highest quarter (whole scores are left out, ⌊n / 4⌋ at either end);
- **stratified bootstrap**: each task's runs are drawn anew from its own, with replacement, and
  independently of the other tasks'; the 95 % interval lies between the 2.5 % and 97.5 %
  percentiles of the statistic over all draws;
- the **probability of improvement** of X over Y is the chance that a random run of X scores higher
  than a random run of Y on the same task, ties counted as one half (the Mann-Whitney statistic
  divided by the number of pairs), averaged over the tasks; for its interval the runs of both are
  drawn anew, independently.

A sweep has one environment, hence one task and one stratum. With few runs the intervals are too
narrow: five runs have no more than five scores to draw from. They are written here in NumPy, since
rliable brings SciPy, pandas, seaborn and arch along for these few lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS, LEVEL = 10_000, 0.95
_AT_ONCE = 200_000_000
"""Comparisons of two runs that are held in memory together, at most."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A statistic and its interval; the ends are NaN where a single run has none."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Scores) -> float:
    """Of scores [runs, tasks]."""
    return float(_interquartile_means(scores[None])[0])


def interquartile_interval(scores: Scores, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Interquartile mean of scores [runs, tasks] with its 95 % stratified bootstrap interval."""
    samples = _draw(scores, draws, np.random.default_rng(seed))
    return _estimate(interquartile_mean(scores), len(scores), lambda: _interquartile_means(samples))


def probability_of_improvement(scores: Scores, others: Scores) -> float:
    """Of scores [runs, tasks] over others [other runs, tasks]."""
    return float(_improvements(scores[None], others[None])[0])


def improvement_interval(
    scores: Scores, others: Scores, *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Probability of improvement with its 95 % stratified bootstrap interval."""
    generator = np.random.default_rng(seed)

    def drawn() -> NDArray[np.float64]:
        pairs = len(scores) * len(others) * scores.shape[1]
        step = max(1, _AT_ONCE // (8 * pairs))
        parts = [
            _improvements(
                _draw(scores, min(step, draws - first), generator),
                _draw(others, min(step, draws - first), generator),
            )
            for first in range(0, draws, step)
        ]
        return np.concatenate(parts)

    fewest = min(len(scores), len(others))
    return _estimate(probability_of_improvement(scores, others), fewest, drawn)


def _estimate(value: float, runs: int, drawn: Callable[[], NDArray[np.float64]]) -> Estimate:
    if runs < 2:
        return Estimate(value, np.nan, np.nan)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn(), [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _draw(scores: Scores, draws: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """[draws, runs, tasks]: each task's runs anew, independently of the other tasks'."""
    runs, tasks = scores.shape
    chosen = generator.integers(runs, size=(draws, runs, tasks))
    return scores[chosen, np.arange(tasks)]


def _interquartile_means(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """[draws] of samples [draws, runs, tasks]."""
    flat = np.sort(samples.reshape(len(samples), -1), axis=1)
    cut = flat.shape[1] // 4
    return np.asarray(flat[:, cut : flat.shape[1] - cut].mean(axis=1), np.float64)


def _improvements(samples: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """[draws] of samples [draws, runs, tasks] and others [draws, other runs, tasks]."""
    mine, theirs = samples[:, :, None], others[:, None]
    wins = (mine > theirs).mean(axis=(1, 2)) + 0.5 * (mine == theirs).mean(axis=(1, 2))
    return np.asarray(wins.mean(axis=1), np.float64)
