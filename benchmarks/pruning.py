"""Temporal pruning against its rivals, at equal environment steps per stage.

    python benchmarks/pruning.py --seeds 0-4 --steps 300000 --out runs/pruning

Per seed there is one teacher, one ANN and one T5, as the preset has them; all variants start from
these and are trained for --steps in every spiking stage, or for --first-steps in the one that
starts from the ANN. Each stage keeps its best validated network, as `snn-rl train` does, but does
not stop early (--stop-at-target brings that back).
Frames and time of a variant count its way from the fresh ANN on, the teacher left out.

The runs are cells of a sweep in --out: finished ones are used again and the rest goes on, so that a
stopped command is repeated as it is. OUT/pruning.json holds the results, OUT/pruning.md the tables.
With several --workers the seconds are those of runs side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import comparing
from comparing import (
    Row,
    Study,
    cell,
    chosen,
    difference,
    mean_of,
    positive,
    run_script,
    score,
    seconds_of,
    seeds_line,
    settings_by_seed,
    steps_of,
)

from snn_rl.agents.agent import Agent
from snn_rl.agents.config import TrainConfig, make_config
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.loading import load_agent
from snn_rl.agents.policy import Policy
from snn_rl.agents.setup import Setup
from snn_rl.agents.sweep.manifest import Cell
from snn_rl.conversion.temporal_pruning import VANISHING_RATE, rescale_leaks
from snn_rl.support.markdown import table
from snn_rl.support.settings import merge

FIRST = 5
RIVAL = "gradual"
"""What the others are compared with."""


@dataclass(frozen=True)
class Variant:
    """A way to T1.

    Attributes:
        key: its name on the command line and of its folder.
        start: what it starts from, the shared ANN or the shared T5.
        timesteps, step, until: of its stages.
        trained: False converts (or only reduces T) and trains nothing.
        rescale: keep a frame's memory when T drops.
        whole: its one stage has as many steps as those of gradual pruning together, T5's included.
    """

    key: str
    title: str
    start: Literal["ann", "T5"]
    timesteps: int
    step: int = 1
    until: int = 1
    trained: bool = True
    rescale: bool = True
    whole: bool = False


VARIANTS = (
    Variant("T5", "T5, where others start", "ann", FIRST, until=FIRST),
    Variant("gradual", "gradual T5→T4→T3→T2→T1", "T5", 4),
    Variant("5-3-1", "T5→T3→T1", "T5", 3, step=2),
    Variant("5-3-1-leak", "T5→T3→T1, leak not rescaled", "T5", 3, step=2, rescale=False),
    Variant("direct-T5", "direct T5→T1", "T5", 1),
    Variant("direct-ann", "direct ANN→T1", "ann", 1),
    Variant("direct-ann-long", "direct ANN→T1, frames of gradual", "ann", 1, whole=True),
    Variant("untrained-T5", "T5 run at T1, not trained", "T5", 1, trained=False),
    Variant("conversion-T5", "conversion only, T5", "ann", FIRST, until=FIRST, trained=False),
    Variant("conversion-T1", "conversion only, T1", "ann", 1, trained=False),
)
OPTIONAL = ("direct-ann-long",)
BEFORE_AFTER = (("untrained-T5", "direct-T5"), ("conversion-T1", "direct-ann"))
"""The same network before and after its training at T1."""


@dataclass(frozen=True)
class Seed:
    """The runs of one seed and what is measured of them.

    Attributes:
        settings: preset and overrides.
        steps: environment steps of each spiking stage.
        first_steps: of the one that starts from the ANN.
        stop_at_target: stages stop at the preset's target.
    """

    study: Study
    settings: dict[str, Any]
    steps: int
    first_steps: int
    stop_at_target: bool

    def ann(self) -> Cell:
        """The ANN on one frame, trained beside its teacher as the preset says."""
        return cell("ann", make_config(merge(self.settings, {"timesteps": 0})))

    def teacher(self) -> str:
        """Who labels frames; trained along with the ANN."""
        name = make_config(self.settings).teacher
        own = name == "full_state" or name.startswith("stack:")
        if name != "self" and not own:
            return name
        return str(self.study.out / self.ann().name / ("teacher" if own else "ann"))

    def stage_steps(self, variant: Variant) -> int:
        """Environment steps of each of the variant's stages."""
        if variant.whole:
            return self.first_steps + (FIRST - 1) * self.steps
        return self.first_steps if variant.start == "ann" else self.steps

    def cells(self, variant: Variant) -> list[Cell]:
        """The runs that the variant consists of, in order."""
        before = [self.ann()] if variant.start == "ann" else self.cells(VARIANTS[0])
        if not variant.trained:
            return before
        return [*before, cell(variant.key, self.config(variant), before)]

    def config(self, variant: Variant) -> TrainConfig:
        """Settings of the variant's run."""
        start = f"{variant.start}/seed{self.settings['seed']}/{variant.start}"
        changes: dict[str, Any] = {
            "timesteps": variant.timesteps,
            "step": variant.step,
            "until": variant.until,
            "rescale_leak": variant.rescale,
            "start": str(self.study.out / start),
            "teacher": self.teacher(),
            "ann": {"steps": 0},
            "spiking": {"steps": self.stage_steps(variant), "steps_at": None},
        }
        if not self.stop_at_target:
            changes["validation"] = {"target": None}
        return make_config(merge(self.settings, changes))

    def agent(self, variant: Variant) -> Agent:
        """The variant's last agent, or what its training would begin with."""
        *_, last = self.cells(variant)
        found = self.study.agent(last, last.stages[-1])
        return found if variant.trained else self._untrained(variant, found)

    def cost(self, variant: Variant) -> dict[str, float]:
        """Frames and seconds of training on its way, the ANN's included."""
        ways = [
            self.study.agent(run, stage)
            for run in self.cells(variant)
            for stage in run.stages
            if stage != "ann" or run.variant == "ann"
        ]
        return {"frames": sum(map(steps_of, ways)), "seconds": sum(map(seconds_of, ways))}

    def _untrained(self, variant: Variant, start: Agent) -> Agent:
        config = self.config(variant)
        if variant.start == "ann":
            network = Setup(config).convert(start.policy, load_agent(config.teacher).policy)
        else:
            network = start.policy.network.clone()
            rescale_leaks(network, start.timesteps, variant.timesteps)
        policy = Policy(network.eval(), variant.timesteps, config.carry_membrane)
        environment = start.card["environment"]
        return Agent(policy, start.pipeline, {"stage": "untrained", "environment": environment})

    def measure(self, variant: Variant, trials: int) -> None:
        """Evaluate the variant, and keep its row."""
        fixed = {
            "variant": variant.key,
            "seed": self.settings["seed"],
            "steps": self.steps,
            "first_steps": self.first_steps,
            "trials": trials,
            **self.cost(variant),
        }
        # The same games for all seeds of training, those of `snn-rl evaluate`.
        play = partial(evaluate_agent, self.agent(variant), variant.key, trials=trials)
        self.study.keep(fixed, play)


def report(rows: Sequence[Row], env: str) -> str:
    """The tables over all seeds."""
    of = {v.key: [row for row in rows if row["variant"] == v.key] for v in VARIANTS}
    lines = [
        [
            variant.title,
            score(found),
            "–" if variant.key == RIVAL else difference(found, of[RIVAL]),
            str(len(found)),
            mean_of(found, "frames", ",.0f"),
            mean_of(found, "seconds", ",.0f"),
            mean_of(found, "spike_rate", ".3f"),
            mean_of(found, "alpha", ".1f"),
        ]
        for variant in VARIANTS
        if (found := of[variant.key])
    ]
    header = ["variant", "score", "against gradual, seed by seed", "seeds", "frames", "seconds"]
    header += ["spikes per neuron and frame", "α"]
    first, later = (
        " or ".join(f"{n:,}" for n in sorted({row[key] for row in rows}))
        for key in ("first_steps", "steps")
    )
    steps = f"{first} steps in the stage after the ANN, {later} in each later one"
    what = f"{env}, {steps}. {seeds_line(rows)}"
    return f"{what}\n\n{table(header, lines)}\n{_rates(of)}"


def _rates(of: dict[str, list[Row]]) -> str:
    """Table of the layers' spike rates before and after training at T1."""
    titles = {variant.key: variant.title for variant in VARIANTS}
    lines = []
    for before, after in BEFORE_AFTER:
        for layer in dict.fromkeys(n for r in of[before] + of[after] for n in r["spike_rates"]):
            cells = [_layer_rates(of[key], layer) for key in (before, after)]
            lines.append([titles[after], layer, *cells])
    if not lines:
        return ""
    intro = (
        "Spikes per neuron and frame, layer by layer: mean over seeds, and in brackets the seeds "
        f"whose layer is silent (below {VANISHING_RATE})."
    )
    return f"\n{intro}\n\n{table(['variant', 'layer', 'before', 'after'], lines)}\n"


def _layer_rates(rows: Sequence[Row], layer: str) -> str:
    rates = [row["spike_rates"][layer] for row in rows if layer in row["spike_rates"]]
    if not rates:
        return "–"
    silent = sum(rate < VANISHING_RATE for rate in rates)
    return f"{sum(rates) / len(rates):.4f} ({silent} of {len(rates)})"


def main(options: argparse.Namespace) -> None:
    """Train and evaluate what was asked for."""
    study = Study(Path(options.out).resolve(), "pruning", ("variant",))
    usual = [v.key for v in VARIANTS if v.key not in OPTIONAL]
    keys = chosen(options.variants or usual, [v.key for v in VARIANTS], "variant")
    wanted = [variant for variant in VARIANTS if variant.key in keys]
    first_steps = options.first_steps or options.steps
    seeds = [
        Seed(study, base, options.steps, first_steps, options.stop_at_target)
        for base in settings_by_seed(options)
    ]
    study.train([c for seed in seeds for v in wanted for c in seed.cells(v)], options)
    for seed in seeds:
        for variant in wanted:
            seed.measure(variant, options.trials)
    study.publish(report(study.rows(), options.env))


def parser() -> argparse.ArgumentParser:
    """The options."""
    names = f"of {', '.join(v.key for v in VARIANTS)} [all but {', '.join(OPTIONAL)}]"
    result = comparing.parser(__doc__, seeds="5", trials=20, variants=names)
    add = result.add_argument
    add("--steps", type=positive, required=True, help="environment steps of each spiking stage")
    add("--first-steps", type=positive, help="of the stage after the ANN [--steps]")
    add("--stop-at-target", action="store_true", help="stages stop at the preset's target")
    return result


if __name__ == "__main__":
    arguments = parser().parse_args()
    sys.exit(run_script(lambda: main(arguments)))
