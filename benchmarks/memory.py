"""Does memory in the membranes matter? The same recipe with it, without it, and with its rivals.

    python benchmarks/memory.py --env PositionOnlyCartPole-v1 --seeds 1 --out runs/memory

All students of a seed learn from one teacher under the preset's `spiking` settings: the spiking
agents (whose chain begins with the preset's own ANN stage), ANNs on one and on four frames, and a
GRU. The runs are cells of a sweep in --out, but for the GRU, which is no network of the package and
is trained after them. What is finished is used again and the rest goes on, so that a stopped
command is repeated as it is. OUT/memory.json holds the results, OUT/memory.md the table.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comparing
from comparing import (
    Row,
    Study,
    cell,
    chosen,
    mean_of,
    named_agents,
    positive,
    run_script,
    score,
    seeds_line,
    settings_by_seed,
    steps_of,
)
from gru import train_gru

from snn_rl.agents.agent import Agent
from snn_rl.agents.conditions import Conditions
from snn_rl.agents.config import TrainConfig, make_config
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.loading import load_agent
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.agents.sweep.manifest import Cell
from snn_rl.errors import SnnRlError
from snn_rl.support.markdown import table
from snn_rl.support.settings import merge

CONDITIONS = ("plain", "sticky 0.25", "flicker 0.5")


@dataclass(frozen=True)
class Variant:
    """A row of the table: a stage of one of the training runs.

    Attributes:
        run: empty for an agent that is given.
        base: the variant whose agent this is, with membranes zeroed at test.
    """

    name: str
    run: str = ""
    stage: str = "ann"
    base: str | None = None


def variants(timesteps: Sequence[int], agents: Sequence[str] = ()) -> dict[str, Variant]:
    """All variants of a chain with these timesteps, and those that agents are given for."""
    named = [match for name in agents if (match := re.fullmatch(r"T(\d+) carried", name))]
    carried = sorted({*timesteps, *(int(match[1]) for match in named)}, reverse=True)
    listed = [
        Variant("teacher", "teacher"),
        Variant("ANN, one frame", "ann"),
        Variant("ANN, four frames", "ann-four-frames"),
        Variant("GRU, one frame", "gru"),
        *(Variant(f"T{t} carried", "carried", f"T{t}") for t in carried),
        *(Variant(f"T{t} zeroed at test", base=f"T{t} carried") for t in carried),
        *(Variant(f"T{t} trained without carry", "uncarried", f"T{t}") for t in timesteps),
    ]
    found = {variant.name: variant for variant in listed}
    return found | {name: Variant(name) for name in agents if name not in found}


def condition(text: str) -> dict[str, Any]:
    """Settings of "plain", "max-pooled", "sticky P" or "flicker P". Raises SnnRlError for another
    text."""
    kind, _, chance = text.partition(" ")
    if text == "plain":
        return {}
    if text == "max-pooled":
        return {"maxpool": True}
    try:
        known = kind in ("sticky", "flicker") and 0 <= float(chance) <= 1
    except ValueError:
        known = False
    if not known:
        raise SnnRlError(
            f"condition {text!r} must be plain, max-pooled, 'sticky P' or 'flicker P', P in 0…1"
        )
    return {kind: float(chance)}


@dataclass(frozen=True)
class Seed:
    """The runs of one seed and what is measured of them.

    Attributes:
        settings: preset, overrides and training condition.
        named: a saved agent as the teacher, or None for the preset's own.
        agents: trained agents by the name of the variant that they stand for.
    """

    study: Study
    settings: dict[str, Any]
    named: str | None
    agents: dict[str, str]

    @property
    def number(self) -> int:
        """The seed."""
        return int(self.settings["seed"])

    def config(self, **changes: Any) -> TrainConfig:
        """The settings with some changes."""
        return make_config(merge(self.settings, changes))

    def teacher(self) -> Cell | None:
        """The run that trains who labels frames, without flicker, since teachers are shown frames
        as they were before it; None for a saved agent."""
        name = self.named or self.config().teacher
        if name == "self":
            return cell("teacher", self.config(timesteps=0, flicker=0.0))
        if name != "full_state" and not name.startswith("stack:"):
            return None
        # A run always has an ANN stage: here it is as short as can be.
        return cell("teacher", self.config(timesteps=0, flicker=0.0, ann={"steps": 1}))

    def labeller(self) -> str:
        """The agent that labels frames."""
        trained = self.teacher()
        if trained is None:
            return self.named or self.config().teacher
        stage = "ann" if trained.config.teacher == "self" else "teacher"
        return str(self.study.out / trained.name / stage)

    def student(self, run: str) -> TrainConfig:
        """Settings of a run; rivals are trained as the first spiking stage is."""
        plain = self.config()
        first = plain.spiking.at(plain.timesteps)
        rival: dict[str, Any] = {"timesteps": 0, "ann": first.model_dump()}
        changes: dict[str, Any] = {
            "ann": rival,
            "ann-four-frames": {**rival, "stack": 4},
            "gru": rival,
            "carried": {},
            "uncarried": {"carry_membrane": False},
        }[run]
        return self.config(**changes, teacher=self.labeller())

    def known(self) -> dict[str, Variant]:
        """All variants by name."""
        return variants(self.config().stages(), list(self.agents))

    def trained(self, variant: Variant) -> Variant:
        """Itself, or the variant whose agent it is."""
        return self.known()[variant.base] if variant.base else variant

    def cells(self, variant: Variant) -> list[Cell]:
        """The runs that its agent needs, in order."""
        variant = self.trained(variant)
        teacher = self.teacher()
        needed = [teacher] if teacher else []
        if variant.name in self.agents:
            return []
        if variant.run in ("teacher", "gru"):
            return needed
        return [*needed, cell(variant.run, self.student(variant.run), needed)]

    def agent(self, variant: Variant) -> tuple[Agent, int | None]:
        """The variant's agent and the frames it was trained on, those of earlier stages included;
        None where they are not known."""
        if variant.base is not None:
            agent, steps = self.agent(self.trained(variant))
            return agent.with_options(carry_membrane=False), steps
        if variant.name in self.agents:
            return load_agent(self.agents[variant.name]), None
        if variant.run == "teacher":
            agent = load_agent(self.labeller())
            return agent, steps_of(agent)
        if variant.run == "gru":
            folder = self.study.out / "gru" / f"seed{self.number}"
            agent = train_gru(self.student("gru"), folder)
            return agent, steps_of(agent)
        *_, run = self.cells(variant)
        before = run.stages[: run.stages.index(variant.stage) + 1]
        agents = [self.study.agent(run, stage) for stage in before]
        return agents[-1], sum(map(steps_of, agents))

    def measure(
        self, variant: Variant, conditions: Sequence[str], trials: int, max_frames: int | None
    ) -> None:
        """Evaluate a variant, and keep its rows."""
        agent, steps = self.agent(variant)
        if agent.env_id != self.settings["env"]:
            raise SnnRlError(f"the agent of {variant.name!r} plays {agent.env_id}")
        for name in conditions:
            fixed = {
                "variant": variant.name,
                "condition": name,
                "seed": self.number,
                "trials": trials,
                "max_frames": max_frames,
                "agent": self.agents.get(variant.base or variant.name),
                "steps": steps,
                "teacher": self._teacher_name(agent.card.get("teacher")),
            }
            self.study.keep(fixed, partial(play, agent, name, trials, max_frames))

    def _teacher_name(self, source: str | None) -> str | None:
        """The preset's word for a teacher that was trained here."""
        own = source is not None and Path(source).is_relative_to(self.study.out / "teacher")
        word = self.named or self.config().teacher
        return {"self": "the preset's ANN"}.get(word, word) if own else source


def play(agent: Agent, name: str, trials: int, max_frames: int | None) -> Row:
    """Scores of full games under the condition of this name."""
    shown = {"maxpool": agent.maxpool, "env_kwargs": agent.env_kwargs}
    world = Conditions(**(shown | condition(name)))
    seeds = evaluation_seeds(0, trials)
    played = evaluate(
        agent.policy, agent.env_id, agent.pipeline, seeds, world, max_frames=max_frames
    )
    return {
        "mean_reward": played.mean,
        "std_reward": played.std,
        "rewards": played.rewards,
        "lengths": played.lengths,
        "distinct_trials": played.distinct_trials,
        "spike_rates": played.spike_rates,
    }


def report(rows: Sequence[Row], env: str, trained_under: str) -> str:
    """The table over all seeds."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    names = list(dict.fromkeys(row["variant"] for row in rows))
    lines = []
    for name in names:
        own = [row for row in rows if row["variant"] == name]
        cells = [score([row for row in own if row["condition"] == c]) for c in conditions]
        taught = " / ".join(sorted({row["teacher"] for row in own if row["teacher"]})) or "–"
        seeds = str(len({row["seed"] for row in own}))
        lines.append([name, *cells, seeds, mean_of(own, "steps", ",.0f"), taught])
    header = ["variant", *conditions, "seeds", "frames trained", "teacher"]
    return f"{env}, trained under: {trained_under}. {seeds_line(rows)}\n\n{table(header, lines)}\n"


def main(options: argparse.Namespace) -> None:
    """Train and evaluate what was asked for."""
    study = Study(Path(options.out).resolve(), "memory", ("variant", "condition"))
    agents = named_agents(options.agent)
    under = condition(options.train_under)
    conditions = list(dict.fromkeys(options.conditions))
    for name in conditions:
        condition(name)
    seeds = [
        Seed(study, merge(base, under), options.teacher, agents)
        for base in settings_by_seed(options)
    ]
    known = seeds[0].known()
    asked = None if options.variants is None else [*options.variants, *agents]
    wanted = [known[name] for name in chosen(asked, list(known), "variant")]
    study.train([c for s in seeds for v in wanted for c in s.cells(v)], options)
    for seed in seeds:
        for variant in wanted:
            seed.measure(variant, conditions, options.trials, options.max_frames)
    study.publish(report(study.rows(), options.env, options.train_under))


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = comparing.parser(
        __doc__, seeds="1", trials=20, variants='some alone, e.g. "GRU, one frame"'
    )
    add = result.add_argument
    add(
        "--conditions",
        nargs="+",
        metavar="NAME",
        default=CONDITIONS,
        help='at evaluation: plain, max-pooled, "sticky P", "flicker P" '
        "[plain, sticky 0.25, flicker 0.5]",
    )
    add("--train-under", metavar="NAME", default="plain", help="condition in training [plain]")
    add("--max-frames", type=positive, help="cut games off after so many [never]")
    add("--teacher", help="a saved agent [the preset's own teacher, trained once per seed]")
    add(
        "--agent",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="an agent evaluated as it is, in the place of the variant NAME or beside them",
    )
    return result


if __name__ == "__main__":
    arguments = parser().parse_args()
    sys.exit(run_script(lambda: main(arguments)))
