"""Reinforcement without a teacher: spiking stages by TD, by distillation, and by both.

    python benchmarks/td.py --env CartPole-v1 --seeds 0-4 --out runs/td/CartPole-v1
    python benchmarks/td.py --env PositionOnlyCartPole-v1 --seeds 0-4 --steps 262144 \
        --out runs/td/PositionOnlyCartPole-v1

Per seed there is one ANN on one frame, trained by double DQN alone, from which all spiking stages
are converted, and the teacher that the preset has for them (CartPole: that ANN; without velocities:
an ANN that sees the full state). TD learns from segments of a replay that start from the membranes
that play had there; distillation is the preset's. All have --steps frames and do not stop early.

The runs are cells of a sweep in --out: finished ones are used again and the rest goes on, so that a
stopped command is repeated as it is. OUT/td.json holds the results, OUT/td.md the tables and
OUT/td.png their picture. With several --workers the seconds are those of runs side by side.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comparing
from comparing import (
    Row,
    Study,
    cell,
    chosen,
    difference,
    half_width,
    mean_of,
    positive,
    run_script,
    score,
    seconds_of,
    seeds_line,
    settings_by_seed,
)

from snn_rl.agents.config import make_config
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.report.records import read_run
from snn_rl.agents.sweep.manifest import Cell
from snn_rl.support.markdown import table
from snn_rl.support.plotting import BLUE, MUTED, PALE, RED, new_figure, save_figure
from snn_rl.support.settings import merge

TIMESTEPS = (1, 3)
REPLAY: dict[str, Any] = {
    "num_envs": 64,
    "rollout": 16,
    "replay": 32_768,
    "learning_starts": 4_096,
    "updates": 8,
    "batch": 32,
    "segment": 32,
    "burn_in": 8,
    # With 0.99, T1 on CartPole learnt half as fast, and nothing from positions alone.
    "gamma": 0.95,
    "n_step": 8,
    "target_every": 60,
    "average": 0.99,
    "learning_rate": 1e-3,
    "warmup": 100,
    "max_grad_norm": 10.0,
    # Where all play well, the replay forgets how poles fall: CartPole rose to 470 and fell to 150.
    "epsilon": [0.4, 0.4],
    "epsilon_spread": 4.0,
    "teacher_acts": 0.0,
}
"""Settings of a spiking stage that learns by TD, found on one seed of T1 with carried membranes."""
METHODS: dict[str, dict[str, Any]] = {
    "TD": {**REPLAY, "td": [1.0, 1.0], "distill": [0.0, 0.0]},
    "distillation": {},
    "both": {**REPLAY, "td": [1.0, 1.0], "distill": [1.0, 1.0]},
}


@dataclass(frozen=True)
class Variant:
    """A spiking stage, converted from the ANN and trained at T."""

    timesteps: int
    carried: bool
    method: str

    @property
    def name(self) -> str:
        """In the table, and of its run's folder."""
        return f"T{self.timesteps} {'carried' if self.carried else 'zeroed'} {self.method}"


VARIANTS = [
    Variant(timesteps, carried, method)
    for carried in (True, False)
    for timesteps in TIMESTEPS
    for method in METHODS
]


@dataclass(frozen=True)
class Seed:
    """The runs of one seed and what is measured of them.

    Attributes:
        settings: preset and overrides.
        steps: environment steps of each spiking stage.
    """

    study: Study
    settings: dict[str, Any]
    steps: int

    def first(self) -> Cell:
        """The ANN by double DQN alone, and the teacher that the preset has."""
        alone = make_config({"env": self.settings["env"]}).privileged.model_dump()
        ann = alone | {"epsilon": [0.5, 0.05], "learning_starts": 4096}
        if "steps" in self.settings.get("ann", {}):
            ann["steps"] = self.settings["ann"]["steps"]
        return cell("ann", make_config(merge(self.settings, {"timesteps": 0, "ann": ann})))

    def run(self, variant: Variant) -> Cell:
        """The variant's run, after that of the ANN. TD knows the ANN alone, also for its
        thresholds."""
        first = self.first()
        begun = self.study.out / first.name
        taught = variant.method != "TD" and first.config.teacher != "self"
        changes: dict[str, Any] = {
            "timesteps": variant.timesteps,
            "until": variant.timesteps,
            "step": 1,
            "carry_membrane": variant.carried,
            "start": str(begun / "ann"),
            "teacher": str(begun / "teacher") if taught else "self",
            "ann": {"steps": 0},
            "spiking": METHODS[variant.method] | {"steps": self.steps, "steps_at": None},
            "validation": {"target": None},
        }
        config = make_config(merge(self.settings, changes))
        return cell(variant.name.replace(" ", "-"), config, [first])

    def measure(self, variant: Variant, trials: int) -> None:
        """Evaluate the variant, and keep its row."""
        run, stage = self.run(variant), f"T{variant.timesteps}"
        agent = self.study.agent(run, stage)
        fixed = {
            "variant": variant.name,
            "seed": self.settings["seed"],
            "steps": self.steps,
            "trials": trials,
        }

        def play() -> Row:
            # The same games for all seeds of training, those of `snn-rl evaluate`.
            played = evaluate_agent(agent, variant.name, trials=trials)
            curve = [
                (point.steps, point.seconds, point.validation)
                for point in read_run(self.study.out / run.name).points
                if point.stage == stage and point.validation is not None
            ]
            return {**played, "seconds": seconds_of(agent), "curve": curve}

        self.study.keep(fixed, play)


def best_until(row: Row, passed: Callable[[int, float], bool]) -> float:
    """The best validation of a run's curve among those that `passed` (steps, seconds) takes; 0
    before the first one."""
    return max((mean for steps, seconds, mean in row["curve"] if passed(steps, seconds)), default=0)


def at_quarter(row: Row) -> float:
    """The best validation within a quarter of the frames."""
    return best_until(row, lambda steps, _: steps <= row["steps"] / 4)


def at_seconds(row: Row, limit: float) -> float:
    """The best validation within so many seconds of training."""
    return best_until(row, lambda _, seconds: seconds <= limit)


def report(rows: Sequence[Row], env: str, limit: float) -> str:
    """The tables over all seeds."""
    of = {v.name: [row for row in rows if row["variant"] == v.name] for v in VARIANTS}
    lines = [
        [
            variant.name,
            score(found),
            score([row | {"mean_reward": at_quarter(row)} for row in found]),
            score([row | {"mean_reward": at_seconds(row, limit)} for row in found]),
            str(len(found)),
            mean_of(found, "seconds", ",.0f"),
            mean_of(found, "spike_rate", ".3f"),
            mean_of(found, "alpha", ".1f"),
        ]
        for variant in VARIANTS
        if (found := of[variant.name])
    ]
    header = ["stage", "score", "validation in ¼ of the frames", f"validation in {limit:g} s"]
    header += ["seeds", "seconds", "spikes per neuron and frame", "α"]
    steps = " or ".join(f"{n:,}" for n in sorted({row["steps"] for row in rows}))
    what = f"{env}, {steps} frames in each spiking stage. {seeds_line(rows)}"
    return f"{what}\n\n{table(header, lines)}\n{_differences(of)}"


def comparisons() -> list[tuple[str, str]]:
    """Names of the stages that are compared, each the first minus the second."""
    pairs = []
    for v in VARIANTS:
        if v.method != "distillation":
            pairs.append((v.name, Variant(v.timesteps, v.carried, "distillation").name))
        if v.timesteps == 3:
            pairs.append((v.name, Variant(1, v.carried, v.method).name))
        if v.carried:
            pairs.append((v.name, Variant(v.timesteps, False, v.method).name))
    return pairs


def _differences(of: dict[str, list[Row]]) -> str:
    """Table of the comparisons, seed by seed."""
    lines = [
        [first, second, difference(of[first], of[second])]
        for first, second in comparisons()
        if of[first] and of[second]
    ]
    if not lines:
        return ""
    intro = (
        f"{len(lines)} comparisons, seed by seed, mean and 95 % confidence interval of each one by "
        "itself: of as many, one in twenty would exclude 0 by chance."
    )
    return f"\n{intro}\n\n{table(['stage', 'minus', 'score'], lines)}\n"


def draw(rows: Sequence[Row], env: str, path: Path) -> None:
    """Scores as bars with 95 % intervals, a dot per seed: carried and zeroed, T1 and T3."""
    figure, axes = new_figure(8, 3.6)
    colours = dict(zip(METHODS, (RED, BLUE, PALE), strict=True))
    for index, variant in enumerate(VARIANTS):
        found = [row["mean_reward"] for row in rows if row["variant"] == variant.name]
        if not found:
            continue
        at = index + index // len(METHODS)  # a gap between the groups
        first = index < len(METHODS)
        axes.bar(
            at,
            statistics.fmean(found),
            color=colours[variant.method],
            yerr=half_width(found) if len(found) > 1 else None,
            ecolor=MUTED,
            capsize=3,
            label=variant.method if first else None,
        )
        axes.scatter([at] * len(found), found, s=10, color="black", zorder=3)
    groups = [(v.timesteps, v.carried) for v in VARIANTS[:: len(METHODS)]]
    middles = [1 + index * (len(METHODS) + 1) for index in range(len(groups))]
    names = [f"T{t}, membranes {'carried' if carried else 'zeroed'}" for t, carried in groups]
    axes.set_xticks(middles, names)
    axes.set_ylabel("score")
    axes.set_title(env, loc="left", fontsize=11)
    axes.legend(frameon=False, ncols=len(METHODS), loc="upper right", bbox_to_anchor=(1, 1.15))
    save_figure(figure, path)


def main(options: argparse.Namespace) -> None:
    """Train and evaluate what was asked for."""
    study = Study(Path(options.out).resolve(), "td", ("variant",))
    names = chosen(options.variants, [v.name for v in VARIANTS], "stage")
    wanted = [variant for variant in VARIANTS if variant.name in names]
    seeds = [Seed(study, base, options.steps) for base in settings_by_seed(options)]
    study.train([c for s in seeds for c in (s.first(), *map(s.run, wanted))], options)
    for seed in seeds:
        for variant in wanted:
            seed.measure(variant, options.trials)
    rows = study.rows()
    draw(rows, options.env, study.out / "td.png")
    study.publish(report(rows, options.env, options.seconds))


def parser() -> argparse.ArgumentParser:
    """The options."""
    names = 'some alone, e.g. "T1 carried TD"'
    result = comparing.parser(__doc__, seeds="5", trials=50, variants=names)
    add = result.add_argument
    add("--steps", type=positive, default=131_072, help="frames of each spiking stage [131072]")
    add("--seconds", type=positive, default=30, help="of the table's validation in time [30]")
    return result


if __name__ == "__main__":
    arguments = parser().parse_args()
    sys.exit(run_script(lambda: main(arguments)))
