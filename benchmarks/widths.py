"""Score against microseconds for networks of several widths: the ANN of one frame, and T1.

    Z=zoo:PongNoFrameskip-v4/paper-ann
    python benchmarks/widths.py --env PongNoFrameskip-v4 --preset paper --teacher $Z \
        --agent "ANN, width 1=$Z" --out runs/widths

One teacher labels the frames that all students visit: each width has a run of its own, an ANN that
is trained as the preset trains T1, and T1 converted from it, for as many frames again or until
validation meets the preset's target. T1 carries no membranes by default, so that neither remembers;
`--carry` lets it. Scores are exact means over all starts of the environment, those of int8 models,
too. Times are of one decision on one thread, all in one interleaved run on the frames of the first
T1's play: T1 by the event-driven engine, ANNs in ONNX Runtime.

The runs are cells of a sweep in --out: finished ones are used again, so that a stopped command is
repeated as it is. OUT/widths.json holds scores and times, OUT/widths.md the table and
OUT/widths.png its picture.
"""

from __future__ import annotations

import argparse
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
    named_agents,
    run_script,
    say,
    settings_by_seed,
    steps_of,
)
from matplotlib.ticker import StrMethodFormatter

from snn_rl.agents.agent import Agent
from snn_rl.agents.bench.act import act_times
from snn_rl.agents.conditions import Conditions, every_start
from snn_rl.agents.config import make_config
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.loading import load_agent
from snn_rl.agents.sweep.manifest import Cell
from snn_rl.errors import SnnRlError
from snn_rl.support.markdown import table
from snn_rl.support.plotting import BLUE, MUTED, PALE, RED, new_figure, save_figure
from snn_rl.support.settings import merge

RUNTIMES = {
    "T1": {"event-driven": "event, act(frame)"},
    "ANN": {"fp32": "ONNX Runtime fp32", "int8": "ONNX Runtime int8"},
}
"""Per network, what runs it: the name in the table, and the one in `snn-rl benchmark act`."""


@dataclass(frozen=True)
class Variant:
    """A network of one width: "ANN" on one frame, or "T1"."""

    network: str
    width: float

    @property
    def name(self) -> str:
        """In the table."""
        return f"{self.network}, width {self.width:g}"

    @property
    def stage(self) -> str:
        """Of its width's run."""
        return "ann" if self.network == "ANN" else "T1"


def width_cell(width: float, settings: dict[str, Any], carry: bool, start: str | None) -> Cell:
    """The run of a width: its ANN is trained as T1 is, unless it has one to start from."""
    first = make_config(settings).spiking.at(1).model_dump()
    changes: dict[str, Any] = {"width": width, "timesteps": 1, "carry_membrane": carry}
    changes |= (
        {"ann": first | {"rate_penalty": 0.0}}
        if start is None
        else {"start": start, "ann": {"steps": 0}}
    )
    return cell(f"width{width:g}", make_config(merge(settings, changes)))


def play(agent: Agent, source: str) -> Row:
    """Scores of all games that the environment has."""
    parameters = sum(p.numel() for p in agent.policy.network.parameters())
    found = evaluate_agent(agent, source, trials="all")
    return found | {"frames": steps_of(agent), "parameters": parameters}


def race(sources: dict[str, str], frames: int) -> list[Row]:
    """Microseconds of every way to run every network, and the scores of int8 models."""
    spiking = [source for name, source in sources.items() if name.startswith("T1")]
    anns = [source for name, source in sources.items() if name.startswith("ANN")]
    if not spiking:
        raise SnnRlError("no T1 is among the variants: times are taken on the frames of its play")
    found = act_times(spiking, anns, frames, scores=True)
    rows = {row["contender"]: row for row in found["rows"]}
    result = []
    for name, source in sources.items():
        for runtime, contender in RUNTIMES[name.partition(",")[0]].items():
            row = rows[f"{source}, {contender}"]
            score = found["scores"].get(f"{source}, {contender}")
            result.append(
                {
                    "variant": name,
                    "runtime": runtime,
                    "median_us": row["median_us"],
                    "score": score,
                    "processor": found["processor"],
                    "processor_flags": found["processor_flags"],
                    "load": found["load"],
                }
            )
    return result


def report(rows: Sequence[Row], times: Sequence[Row], teacher: str) -> str:
    """The table."""
    of = {row["variant"]: row for row in rows}
    lines = []
    for time in times:
        row = of[time["variant"]]
        score = row["mean_reward"] if time["score"] is None else time["score"]
        spikes = f"{row['spike_rate']:.3f}" if time["runtime"] == "event-driven" else "–"
        lines.append(
            [
                row["variant"],
                time["runtime"],
                f"{score:.2f}",
                f"{time['median_us']:.0f}",
                f"{row['parameters']:,}",
                spikes,
                f"{row['frames']:,}",
            ]
        )
    header = ["network", "run by", "score", "median µs", "parameters", "spikes", "frames trained"]
    flags, load = " ".join(times[0]["processor_flags"]), times[0]["load"]
    where = f"{times[0]['processor']} ({flags}), one thread, load {load[0]:.1f} to {load[1]:.1f}"
    return (
        f"Exact mean scores over all starts; teacher {teacher}; one seed. {where}.\n\n"
        f"{table(header, lines)}\n"
    )


def draw(rows: Sequence[Row], times: Sequence[Row], path: Path) -> None:
    """Score against microseconds, a line per way to run a kind of network."""
    scores = {row["variant"]: row["mean_reward"] for row in rows}
    figure, axes = new_figure(7, 3.8)
    ways = [("T1", "event-driven", BLUE), ("ANN", "fp32", RED), ("ANN", "int8", PALE)]
    for network, runtime, colour in ways:
        own = [
            t for t in times if t["runtime"] == runtime and t["variant"].startswith(f"{network},")
        ]
        own.sort(key=lambda t: float(t["variant"].rpartition(" ")[2]))
        x = [t["median_us"] for t in own]
        y = [scores[t["variant"]] if t["score"] is None else t["score"] for t in own]
        axes.plot(x, y, marker="o", color=colour, label=f"{network}, {runtime}")
        for time, at, height in zip(own, x, y, strict=True):
            width = time["variant"].rpartition(" ")[2]
            axes.annotate(
                width, (at, height), xytext=(4, -11), textcoords="offset points",
                fontsize=9, color=MUTED,
            )  # fmt: skip
    axes.set_xscale("log")
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks(StrMethodFormatter("{x:.0f}"))
    axes.margins(y=0.12)
    axes.set_xlabel("median µs of a decision, one thread (numbers: width)")
    axes.set_ylabel("score, all starts")
    axes.legend(frameon=False)
    save_figure(figure, path)


def main(options: argparse.Namespace) -> None:
    """Train, play and time what was asked for."""
    study = Study(Path(options.out).resolve(), "widths", ("variant",))
    variants = [Variant(network, width) for network in RUNTIMES for width in options.widths]
    names = chosen(options.variants, [v.name for v in variants], "variant")
    given = named_agents(options.agent)
    chosen(list(given), names, "variant")
    base, *others = settings_by_seed(options, options.preset)
    if others:
        raise SnnRlError("--seeds must name one seed, e.g. 3-3")
    settings = merge(base, {"teacher": options.teacher} if options.teacher else {})
    config = make_config(settings)
    every_start(config.env, Conditions(config.flicker, config.sticky))  # refused before training
    sources, cells = dict(given), []
    for variant in variants:
        if variant.name in names and variant.name not in given:
            start = given.get(Variant("ANN", variant.width).name)
            cells.append(width_cell(variant.width, settings, options.carry, start))
            sources[variant.name] = str(study.out / cells[-1].name / variant.stage)
    study.train(cells, options)
    for name in names:
        fixed = {"variant": name, "seed": base["seed"], "agent": sources[name]}
        study.keep(fixed, partial(play, load_agent(sources[name]), sources[name]))
    rows = [row for row in study.rows() if row["variant"] in names]
    say("taking times and the scores of int8 models")
    times = race({name: sources[name] for name in names}, options.frames)
    draw(rows, times, study.out / "widths.png")
    study.publish(report(rows, times, config.teacher))


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = comparing.parser(
        __doc__, seeds="1", trials=None, variants='some alone, e.g. "T1, width 0.5"'
    )
    add = result.add_argument
    add("--preset", help="of the environment, by name, e.g. paper [its default]")
    add("--widths", type=float, nargs="+", default=[1.0, 0.5, 0.25], help="shares of the preset's")
    add("--teacher", help="a saved agent [the preset's]")
    add("--carry", action="store_true", help="T1 carries its membranes from frame to frame")
    add("--frames", type=comparing.positive, default=1000, help="decisions of each [1000]")
    add(
        "--agent",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="an agent that stands for a variant as it is, untrained",
    )
    return result


if __name__ == "__main__":
    arguments = parser().parse_args()
    sys.exit(run_script(lambda: main(arguments)))
