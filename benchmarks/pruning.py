"""Temporal pruning against its rivals, at equal environment steps per stage.

    python benchmarks/pruning.py --seeds 0-4 --steps 300000 --out runs/pruning

Per seed there is one teacher, one ANN and one T5, as the preset has them; all variants start from
these and are trained for --steps in every spiking stage, or for --first-steps in the one that
starts from the ANN. Each stage keeps its best validated network, as `snn-rl train` does, but does
not stop early (--stop-at-target brings that back).
Frames and time of a variant count its way from the fresh ANN on, the teacher left out.

Finished runs below --out are used again and unfinished ones go on, so that a stopped command is
repeated as it is. OUT/seedN/pruning.json holds the results, OUT/pruning.md the tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from comparing import (
    Row,
    all_rows,
    chosen,
    difference,
    find_row,
    keep_row,
    mean_of,
    positive,
    run_script,
    say,
    score,
    seconds_of,
    seeds_line,
    seeds_of,
    settings,
    steps_of,
    train_or_reuse,
)

from snn_rl.agents.agent import Agent
from snn_rl.agents.config import TrainConfig, make_config
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.loading import load_agent
from snn_rl.agents.policy import Policy
from snn_rl.agents.setup import Setup
from snn_rl.conversion.temporal_pruning import VANISHING_RATE, rescale_leaks
from snn_rl.runs.checkpoint import write_text
from snn_rl.support.allocator import keep_freed_memory
from snn_rl.support.markdown import table
from snn_rl.support.settings import merge

ROWS, TABLE = "pruning.json", "pruning.md"
KEY = ("variant",)
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
class Made:
    """An agent and what its training cost, the ANN's included."""

    agent: Agent
    frames: int
    seconds: float


@dataclass(frozen=True)
class Experiment:
    """The runs and results of one seed.

    Attributes:
        settings: preset and overrides.
        steps: environment steps of each spiking stage.
        first_steps: of the one that starts from the ANN.
        stop_at_target: stages stop at the preset's target.
    """

    settings: dict[str, Any]
    out: Path
    steps: int
    first_steps: int
    trials: int
    stop_at_target: bool

    @property
    def folder(self) -> Path:
        """Of this seed."""
        return self.out / f"seed{self.settings['seed']}"

    def ann(self) -> Made:
        """The ANN on one frame, trained beside its teacher as the preset says."""
        config = make_config(merge(self.settings, {"timesteps": 0}))
        agent = train_or_reuse(config, self.folder / "ann")["ann"]
        return Made(agent, steps_of(agent), seconds_of(agent))

    def teacher(self) -> str:
        """Who labels frames; trained along with the ANN."""
        name = make_config(self.settings).teacher
        if name == "self":
            return str(self.folder / "ann" / "ann")
        own = name == "full_state" or name.startswith("stack:")
        return str(self.folder / "ann" / "teacher") if own else name

    def stage_steps(self, variant: Variant) -> int:
        """Environment steps of each of the variant's stages."""
        if variant.whole:
            return self.first_steps + (FIRST - 1) * self.steps
        return self.first_steps if variant.start == "ann" else self.steps

    def config(self, variant: Variant) -> TrainConfig:
        """Settings of the variant's run."""
        changes: dict[str, Any] = {
            "timesteps": variant.timesteps,
            "step": variant.step,
            "until": variant.until,
            "rescale_leak": variant.rescale,
            "start": str(self.folder / variant.start / variant.start),
            "teacher": self.teacher(),
            "ann": {"steps": 0},
            "spiking": {"steps": self.stage_steps(variant), "steps_at": None},
        }
        if not self.stop_at_target:
            changes["validation"] = {"target": None}
        return make_config(merge(self.settings, changes))

    def make(self, variant: Variant) -> Made:
        """Train the variant, and first what it starts from."""
        before = self.ann() if variant.start == "ann" else self.make(VARIANTS[0])
        if not variant.trained:
            return Made(self._untrained(variant, before.agent), before.frames, before.seconds)
        agents = list(train_or_reuse(self.config(variant), self.folder / variant.key).values())
        frames = before.frames + sum(steps_of(agent) for agent in agents)
        return Made(agents[-1], frames, before.seconds + sum(seconds_of(a) for a in agents))

    def _untrained(self, variant: Variant, start: Agent) -> Agent:
        """The network that the training of such a variant would begin with."""
        config = self.config(variant)
        if variant.start == "ann":
            network = Setup(config).convert(start.policy, load_agent(config.teacher).policy)
        else:
            network = start.policy.network.clone()
            rescale_leaks(network, start.timesteps, variant.timesteps)
        policy = Policy(network.eval(), variant.timesteps, config.carry_membrane)
        environment = start.card["environment"]
        return Agent(policy, start.pipeline, {"stage": "untrained", "environment": environment})

    def measure(self, variant: Variant) -> None:
        """Train and evaluate the variant, and keep its row."""
        made = self.make(variant)
        fixed = {
            "variant": variant.key,
            "seed": self.settings["seed"],
            "steps": self.steps,
            "first_steps": self.first_steps,
            "frames": made.frames,
            "seconds": made.seconds,
            "trials": self.trials,
        }
        if find_row(self.folder / ROWS, fixed) is None:
            say(f"evaluating {variant.title}, seed {self.settings['seed']}")
            # The same games for all seeds of training, those of `snn-rl evaluate`.
            played = evaluate_agent(made.agent, variant.key, trials=self.trials)
            keep_row(self.folder / ROWS, played | fixed, KEY)


def report(out: Path, env: str) -> str:
    """The tables over all seeds; written to OUT as well."""
    rows = all_rows(out, ROWS)
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
    text = f"{what}\n\n{table(header, lines)}\n{_rates(of)}"
    write_text(out / TABLE, text)
    return text


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
    """Train and evaluate what was asked for, seed after seed."""
    keep_freed_memory()
    out = Path(options.out).resolve()
    usual = [v.key for v in VARIANTS if v.key not in OPTIONAL]
    keys = chosen(options.variants or usual, [v.key for v in VARIANTS], "variant")
    for seed in seeds_of(options.seeds):
        base = settings(options.env, seed, options.set)
        first_steps = options.first_steps or options.steps
        work = Experiment(
            base, out, options.steps, first_steps, options.trials, options.stop_at_target
        )
        torch.set_num_threads(make_config(base).threads)
        for variant in VARIANTS:
            if variant.key in keys:
                work.measure(variant)
                report(out, options.env)
    sys.stdout.write(report(out, options.env))


def parser() -> argparse.ArgumentParser:
    """The options."""
    form = argparse.RawDescriptionHelpFormatter
    result = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = result.add_argument
    add("--env", default="PositionOnlyCartPole-v1", help="Gymnasium id")
    add("--seeds", default="0-4", help="such as 0-4 or 0,2,5 [0-4]")
    add("--steps", type=positive, required=True, help="environment steps of each spiking stage")
    add("--first-steps", type=positive, help="of the stage after the ANN [--steps]")
    add("--out", required=True, help="folder of runs and results")
    add(
        "--variants",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(v.key for v in VARIANTS)} [all but {', '.join(OPTIONAL)}]",
    )
    add("--stop-at-target", action="store_true", help="stages stop at the preset's target")
    add("--trials", type=positive, default=20, help="full games per agent [20]")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any training setting")
    return result


if __name__ == "__main__":
    arguments = parser().parse_args()
    sys.exit(run_script(lambda: main(arguments)))
