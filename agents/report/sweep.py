"""The report of a sweep: what its runs say together, as one Markdown page with figures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from snn_rl.agents.report.figures import format_reward, stage_label
from snn_rl.agents.report.records import RunRecord, StageScore, read_run
from snn_rl.agents.report.sweep_figures import Curve, draw_curves, draw_scores
from snn_rl.agents.sweep.manifest import Sweep, read_sweep
from snn_rl.agents.sweep.statistics import (
    Estimate,
    Scores,
    improvement_interval,
    interquartile_interval,
)
from snn_rl.runs.checkpoint import CARD, write_text
from snn_rl.runs.folder import FIGURES, REPORT
from snn_rl.support.markdown import EMPTY, code, escape, fenced, table
from snn_rl.support.plotting import save_figure

_CURVE_POINTS, _CURVE_DRAWS = 50, 2000

_GLOSSARY = """\
- A run's **score** is its mean reward over {trials} full games, played greedily on seeds that
  neither training nor validation used.
- **IQM**: interquartile mean of the runs' scores, their lowest and highest quarter left out; in
  brackets its 95 % stratified bootstrap interval. With few runs such intervals are too narrow.
- **Spikes**: per neuron and frame, summed over the timesteps T; **α**: compute energy of the ANN
  divided by this network's. Both are means over the runs, as are the training steps."""

_IMPROVEMENT = """\
The chance that a random run of the first scores higher than a random run of the second, ties
counted as one half, with its 95 % stratified bootstrap interval. Where the interval holds 50 %,
these runs do not tell which is better."""


@dataclass(frozen=True)
class Group:
    """The runs of one variant at one stage.

    Attributes:
        variant: of the grid; empty without one.
        scores: of those runs that were evaluated.
    """

    variant: str
    stage: str
    scores: tuple[StageScore, ...]
    steps: tuple[int, ...]

    @property
    def name(self) -> str:
        """As people write it."""
        return f"{stage_label(self.stage)} {self.variant}".rstrip()

    @property
    def rewards(self) -> Scores:
        """Scores of the runs, [runs, 1]."""
        return np.array([[score.mean_reward] for score in self.scores], np.float64)

    def estimate(self) -> Estimate:
        """Interquartile mean of the scores."""
        return interquartile_interval(self.rewards)


def write_sweep_report(folder: Path) -> Path:
    """Write report.md and figures/*.png into a sweep's folder; returns the path of report.md.

    Runs that are not finished are left out; what was not evaluated yet is said.

    Raises:
        SnnRlError: the folder holds no sweep, or a file is damaged; nothing is written.
    """
    sweep = read_sweep(folder)
    begun = [cell for cell in sweep.cells if any(sweep.path(cell).glob(f"[!.]*/{CARD}"))]
    runs = {cell.name: read_run(sweep.path(cell)) for cell in begun}
    groups = read_groups(sweep, runs)
    scored = [group for group in groups if group.scores]
    sections = [
        _introduction(sweep),
        *_results(scored, folder),
        *_improvements(scored),
        *_figures(folder, scored, read_curves(sweep, runs)),
        f"## Reproduce\n\n{fenced(_commands(sweep, folder), 'sh')}",
    ]
    path = folder / REPORT
    write_text(path, "\n\n".join(sections) + "\n")
    return path


def read_groups(sweep: Sweep, runs: dict[str, RunRecord]) -> list[Group]:
    """All variants at all stages, in order of training."""
    groups = []
    for stage in dict.fromkeys(stage for run in runs.values() for stage in run.stages):
        for variant in sweep.variants:
            of = [runs[c.name] for c in sweep.cells if c.variant == variant and c.name in runs]
            scores = tuple(s for run in of for s in run.scores if s.stage == stage)
            cards = [run.cards[stage] for run in of if stage in run.cards]
            steps = tuple(int(card.get("provenance", {}).get("steps", 0)) for card in cards)
            if scores or cards:
                groups.append(Group(variant, stage, scores, steps))
    return groups


def grouped(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> list[Group]:
    """The groups of rows of `snn-rl evaluate`, in order of training."""
    variants = {str(sweep.path(cell)): cell.variant for cell in sweep.cells}
    found: dict[tuple[str, str], list[StageScore]] = {}
    for row in rows:
        key = str(row["stage"]), variants[str(Path(row["agent"]).parent)]
        found.setdefault(key, []).append(StageScore.model_validate(row))
    stages = dict.fromkeys(stage for stage, _ in found)
    order = [(stage, variant) for stage in stages for variant in sweep.variants]
    return [Group(v, s, tuple(found[s, v]), ()) for s, v in order if (s, v) in found]


def compared(groups: list[Group]) -> list[tuple[Group, Group]]:
    """Who is compared with whom: variants with the first one at each stage, or, without a grid,
    spiking stages with the ANN."""
    pairs = []
    for group in groups:
        grid = [g for g in groups if g.stage == group.stage]
        rival = grid[0] if any(g.variant for g in groups) else groups[0]
        if rival is not group:
            pairs.append((group, rival))
    return pairs


def _introduction(sweep: Sweep) -> str:
    finished = sum(sweep.finished(cell) for cell in sweep.cells)
    seeds = len({cell.seed for cell in sweep.cells})
    what = f"{seeds} seeds" if seeds > 1 else "one seed"
    if len(sweep.variants) > 1:
        what = f"{len(sweep.variants)} variants, {what} each"
    count = len(sweep.cells)
    return (
        f"# {escape(sweep.env)}: {count} {'run' if count == 1 else 'runs'}\n\n"
        f"Training on `{code(sweep.env)}`: {what}, {finished} of {count} finished."
    )


def _results(groups: list[Group], folder: Path) -> list[str]:
    if not groups:
        command = f"snn-rl evaluate --agent {shlex.quote(str(folder))}"
        return [f"## Results\n\nNo run was evaluated yet: `{code(command)}`, then report again."]
    found = [summary(group) for group in groups]
    rows = [[escape(v) if k == "variant" else v for k, v in row.items()] for row in found]
    counts = sorted({score.trials for group in groups for score in group.scores})
    trials = " or ".join(map(str, counts))
    return [f"## Results\n\n{table(list(found[0]), rows)}\n\n{_GLOSSARY.format(trials=trials)}"]


def summary(group: Group) -> dict[str, str]:
    """What the group's runs say together, by column of a table."""
    rewards = group.rewards[:, 0]
    spiking = [score for score in group.scores if score.spike_rates]
    rates = [score.spike_rate for score in spiking if score.spike_rate is not None]
    alphas = [score.alpha for score in group.scores if score.alpha is not None]
    return {
        "stage": stage_label(group.stage),
        "variant": group.variant or EMPTY,
        "runs": str(len(rewards)),
        "IQM": _shown(group.estimate()),
        "mean": format_reward(float(rewards.mean())),
        "worst run": format_reward(float(rewards.min())),
        "best run": format_reward(float(rewards.max())),
        "spikes": f"{np.mean(rates):.3f}" if rates else EMPTY,
        "α": f"{np.mean(alphas):.2f}" if alphas else EMPTY,
        "steps": f"{np.mean(group.steps):,.0f}" if group.steps else EMPTY,
    }


def _shown(estimate: Estimate) -> str:
    value = format_reward(estimate.value)
    if np.isnan(estimate.low):
        return value
    return f"{value} [{format_reward(estimate.low)}, {format_reward(estimate.high)}]"


def _improvements(groups: list[Group]) -> list[str]:
    rows = []
    for group, rival in compared(groups):
        found = improvement_interval(group.rewards, rival.rewards)
        interval = EMPTY if np.isnan(found.low) else f"[{found.low:.0%}, {found.high:.0%}]"
        rows.append([escape(group.name), escape(rival.name), f"{found.value:.0%}", interval])
    if not rows:
        return []
    head = ["runs of", "better than runs of", "probability", "95 % interval"]
    return [f"## Probability of improvement\n\n{table(head, rows)}\n\n{_IMPROVEMENT}"]


def read_curves(sweep: Sweep, runs: dict[str, RunRecord]) -> list[Curve]:
    """Validations over steps: of each variant at each stage, all runs together."""
    curves = []
    for stage in dict.fromkeys(point.stage for run in runs.values() for point in run.points):
        for variant in sweep.variants:
            of = [runs[c.name] for c in sweep.cells if c.variant == variant and c.name in runs]
            if each := [points for run in of if (points := _validations(run, stage))]:
                curves.append(_curve(variant, stage, each))
    return curves


def _validations(run: RunRecord, stage: str) -> list[tuple[int, float]]:
    points = (point for point in run.points if point.stage == stage)
    return [(p.steps, p.validation) for p in points if p.validation is not None]


def _curve(variant: str, stage: str, runs: list[list[tuple[int, float]]]) -> Curve:
    """At steps from the last run's first validation to the end of the longest one."""
    first = max(points[0][0] for points in runs)
    last = max(points[-1][0] for points in runs)
    steps = np.unique(np.linspace(first, max(first, last), _CURVE_POINTS))
    # Beyond its end, where it had reached its target, a run keeps its last value.
    each = [
        np.interp(steps, [taken for taken, _ in points], [reward for _, reward in points])
        for points in runs
    ]
    values = np.stack(each, axis=1)
    found = [interquartile_interval(row[:, None], draws=_CURVE_DRAWS) for row in values]
    middle, low, high = (np.array([getattr(e, k) for e in found]) for k in ("value", "low", "high"))
    return Curve(variant, stage, len(runs), steps, middle, low, high)


def _figures(folder: Path, groups: list[Group], curves: list[Curve]) -> list[str]:
    rows = [(g.name, g.stage, g.rewards[:, 0], g.estimate()) for g in groups]
    return [
        *_figure(
            folder / FIGURES / "scores.png",
            "Scores",
            "Each dot is a run's score; the bar is the interquartile mean, the band its 95 % "
            "interval.",
            draw_scores(rows) if rows else None,
        ),
        *_figure(
            folder / FIGURES / "learning.png",
            "Learning curves",
            "Interquartile mean over the runs of their greedy validations, and its 95 % bootstrap "
            "interval at each point by itself. A run that reached its target before the others "
            "keeps its last value.",
            draw_curves(curves) if curves else None,
        ),
    ]


def _figure(path: Path, title: str, sentence: str, figure: Figure | None) -> list[str]:
    if figure is None:
        path.unlink(missing_ok=True)
        return []
    save_figure(figure, path)
    return [f"## {title}\n\n![{title}]({FIGURES}/{path.name})\n\n{sentence}"]


def _commands(sweep: Sweep, folder: Path) -> str:
    name = shlex.quote(str(folder))
    return f"{sweep.command}\nsnn-rl evaluate --agent {name}\nsnn-rl report {name}"
