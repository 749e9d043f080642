"""Does memory in the membranes matter? The same recipe with it, without it, and with its rivals.

    python benchmarks/memory.py --env PositionOnlyCartPole-v1 --seed 0 --out runs/memory
    python benchmarks/memory.py --env PositionOnlyCartPole-v1 --seed 1 --out runs/memory

All students learn from one teacher under the preset's `spiking` settings: the spiking agents (whose
chain begins with the preset's own ANN stage), ANNs on one and on four frames, and a GRU. Finished
runs below --out are used again and unfinished ones go on, so that a stopped command is repeated as
it is. OUT/seedN/memory.json holds the results, OUT/memory.md the table over all seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comparing import (
    Row,
    all_rows,
    chosen,
    find_row,
    keep_row,
    mean_of,
    positive,
    run_script,
    say,
    score,
    seeds_line,
    settings,
    steps_of,
    train_or_reuse,
)
from gru import train_gru

from snn_rl.agents.agent import Agent
from snn_rl.agents.conditions import Conditions
from snn_rl.agents.config import TrainConfig, make_config
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.loading import load_agent
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.errors import SnnRlError
from snn_rl.runs.checkpoint import write_text
from snn_rl.support.allocator import keep_freed_memory
from snn_rl.support.markdown import table
from snn_rl.support.settings import merge

ROWS, TABLE = "memory.json", "memory.md"
CONDITIONS = ("plain", "sticky 0.25", "flicker 0.5")
KEY = ("variant", "condition")


@dataclass(frozen=True)
class Variant:
    """A row of the table: a stage of one of the training runs.

    Attributes:
        base: the variant whose agent this is, with membranes zeroed at test.
    """

    name: str
    run: str = ""
    stage: str = "ann"
    base: str | None = None


def variants(timesteps: Sequence[int]) -> list[Variant]:
    """All variants of a chain with these timesteps."""
    return [
        Variant("teacher", "teacher"),
        Variant("ANN, one frame", "ann"),
        Variant("ANN, four frames", "ann-four-frames"),
        Variant("GRU, one frame", "gru"),
        *(Variant(f"T{t} carried", "carried", f"T{t}") for t in timesteps),
        *(Variant(f"T{t} zeroed at test", base=f"T{t} carried") for t in timesteps),
        *(Variant(f"T{t} trained without carry", "uncarried", f"T{t}") for t in timesteps),
    ]


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
class Experiment:
    """The runs and results of one seed.

    Attributes:
        settings: preset, overrides and training condition.
        teacher: an agent, or None for the preset's own teacher.
        agents: trained agents by the name of the variant that they stand for.
        max_frames: evaluated games are cut off after so many.
    """

    settings: dict[str, Any]
    out: Path
    trials: int
    teacher: str | None
    agents: dict[str, str]
    max_frames: int | None = None

    @property
    def folder(self) -> Path:
        """Of this seed."""
        return self.out / f"seed{self.settings['seed']}"

    def teacher_source(self) -> str:
        """The agent that labels frames; trained first where there is none yet, without flicker,
        since teachers are shown frames as they were before it."""
        name = self.teacher or self.plain().teacher
        if name == "self":
            train_or_reuse(self.plain(timesteps=0, flicker=0.0), self.folder / "teacher")
            return str(self.folder / "teacher" / "ann")
        if name != "full_state" and not name.startswith("stack:"):
            return name
        # A run always has an ANN stage: here it is as short as can be.
        shortest = self.plain(timesteps=0, flicker=0.0, ann={"steps": 1})
        train_or_reuse(shortest, self.folder / "teacher")
        return str(self.folder / "teacher" / "teacher")

    def plain(self, **changes: Any) -> TrainConfig:
        """The settings with some changes."""
        return make_config(merge(self.settings, changes))

    def student(self, run: str) -> TrainConfig:
        """Settings of a run; rivals are trained as the first spiking stage is."""
        plain = self.plain()
        first = plain.spiking.at(plain.timesteps)
        rival: dict[str, Any] = {"timesteps": 0, "ann": first.model_dump()}
        changes: dict[str, Any] = {
            "ann": rival,
            "ann-four-frames": {**rival, "stack": 4},
            "gru": rival,
            "carried": {},
            "uncarried": {"carry_membrane": False},
        }[run]
        return self.plain(**changes, teacher=self.teacher_source())

    def agent(self, variant: Variant) -> tuple[Agent, int | None]:
        """The variant's agent and the frames it was trained on, those of earlier stages included;
        None where they are not known."""
        if variant.base is not None:
            base = next(v for v in variants(self.plain().stages()) if v.name == variant.base)
            agent, steps = self.agent(base)
            return agent.with_options(carry_membrane=False), steps
        if variant.name in self.agents:
            return load_agent(self.agents[variant.name]), None
        if variant.run == "teacher":
            agent = load_agent(self.teacher_source())
            return agent, steps_of(agent)
        if variant.run == "gru":
            agent = train_gru(self.student("gru"), self.folder / "gru")
            return agent, steps_of(agent)
        agents = train_or_reuse(self.student(variant.run), self.folder / variant.run)
        names = list(agents)
        before = names[: names.index(variant.stage) + 1]
        return agents[variant.stage], sum(steps_of(agents[name]) for name in before)

    def measure(self, variant: Variant, conditions: Sequence[str]) -> None:
        """Train and evaluate a variant, and keep its rows."""
        agent, steps = self.agent(variant)
        if agent.env_id != self.settings["env"]:
            raise SnnRlError(f"the agent of {variant.name!r} plays {agent.env_id}")
        for name in conditions:
            fixed = {
                "variant": variant.name,
                "condition": name,
                "seed": self.settings["seed"],
                "trials": self.trials,
                "max_frames": self.max_frames,
                "agent": self.agents.get(variant.base or variant.name),
            }
            if find_row(self.folder / ROWS, fixed) is None:
                say(f"evaluating {variant.name}, {name}")
                row = fixed | self._play(agent, name) | {"steps": steps}
                keep_row(self.folder / ROWS, row, KEY)

    def _play(self, agent: Agent, name: str) -> Row:
        shown = {"maxpool": agent.maxpool, "env_kwargs": agent.env_kwargs}
        world = Conditions(**(shown | condition(name)))
        seeds = evaluation_seeds(0, self.trials)
        played = evaluate(
            agent.policy, agent.env_id, agent.pipeline, seeds, world, max_frames=self.max_frames
        )
        return {
            "mean_reward": played.mean,
            "std_reward": played.std,
            "rewards": played.rewards,
            "lengths": played.lengths,
            "distinct_trials": played.distinct_trials,
            "spike_rates": played.spike_rates,
            "teacher": self._teacher_name(agent.card.get("teacher")),
        }

    def _teacher_name(self, source: str | None) -> str | None:
        """The preset's word for a teacher that was trained here."""
        own = source is not None and Path(source).is_relative_to(self.folder / "teacher")
        word = self.teacher or self.plain().teacher
        return {"self": "the preset's ANN"}.get(word, word) if own else source


def report(out: Path, env: str, trained_under: str) -> str:
    """The table over all seeds; written to OUT as well."""
    rows = all_rows(out, ROWS)
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
    text = f"{env}, trained under: {trained_under}. {seeds_line(rows)}\n\n{table(header, lines)}\n"
    write_text(out / TABLE, text)
    return text


def named_agents(pairs: Sequence[str]) -> dict[str, str]:
    """Agents by variant from NAME=PATH texts."""
    for pair in pairs:
        if not all(pair.partition("=")):
            raise SnnRlError(f"--agent {pair!r} must look like NAME=PATH")
    return {name: source for name, _, source in (pair.partition("=") for pair in pairs)}


def main(options: argparse.Namespace) -> None:
    """Train and evaluate what was asked for."""
    keep_freed_memory()
    out = Path(options.out).resolve()
    base = settings(options.env, options.seed, options.set)
    base = merge(base, condition(options.train_under))
    agents = named_agents(options.agent)
    work = Experiment(base, out, options.trials, options.teacher, agents, options.max_frames)
    config = work.plain()
    torch.set_num_threads(config.threads)
    known = {v.name: v for v in variants(config.stages())}
    known |= {name: Variant(name) for name in agents if name not in known}
    asked = None if options.variants is None else [*options.variants, *agents]
    conditions = list(dict.fromkeys(options.conditions))
    for name in conditions:
        condition(name)
    for name in chosen(asked, list(known), "variant"):
        work.measure(known[name], conditions)
        report(out, options.env, options.train_under)
    sys.stdout.write(report(out, options.env, options.train_under))


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--env", default="PositionOnlyCartPole-v1", help="Gymnasium id")
    add("--seed", type=int, default=0, help="of everything that is trained [0]")
    add("--out", required=True, help="folder of runs and results, for all seeds")
    add("--variants", nargs="+", metavar="NAME", help='some alone, e.g. "GRU, one frame"')
    add(
        "--conditions",
        nargs="+",
        metavar="NAME",
        default=CONDITIONS,
        help='at evaluation: plain, max-pooled, "sticky P", "flicker P" '
        "[plain, sticky 0.25, flicker 0.5]",
    )
    add("--train-under", metavar="NAME", default="plain", help="condition in training [plain]")
    add("--trials", type=positive, default=20, help="full games per agent and condition [20]")
    add("--max-frames", type=positive, help="cut games off after so many [never]")
    add("--teacher", help="a saved agent [the preset's own teacher, trained once per seed]")
    add(
        "--agent",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="an agent evaluated as it is, in the place of the variant NAME or beside them",
    )
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any training setting")
    return result


if __name__ == "__main__":
    arguments = parser().parse_args()
    sys.exit(run_script(lambda: main(arguments)))
