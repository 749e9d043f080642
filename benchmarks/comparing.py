"""What the comparisons share: runs as cells of a sweep, scores that are kept, tables over seeds."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from snn_rl.agents.agent import Agent
from snn_rl.agents.config import TrainConfig, make_config
from snn_rl.agents.loading import load_agent
from snn_rl.agents.presets import with_preset
from snn_rl.agents.sweep.api import run_sweep
from snn_rl.agents.sweep.manifest import (
    Cell,
    Sweep,
    check_release,
    is_sweep,
    parse_seeds,
    read_sweep,
)
from snn_rl.agents.sweep.progress import SweepView
from snn_rl.commands.output import FAILURE, INTERRUPTED, terminal
from snn_rl.errors import SnnRlError
from snn_rl.runs.checkpoint import write_text
from snn_rl.runs.folder import Interrupted
from snn_rl.support.allocator import keep_freed_memory
from snn_rl.support.files import read_text
from snn_rl.support.settings import parse_overrides

Row = dict[str, Any]

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5 % quantiles of the t-distribution with 1 … 30 degrees of freedom."""


@dataclass(frozen=True)
class Study:
    """A comparison in a folder: its runs are the cells of a sweep, its scores lie beside them.

        OUT/sweep.json, OUT/VARIANT/seedN/    the runs, as `snn-rl sweep` has them
        OUT/NAME.json, OUT/NAME.md            scores, and the table

    Attributes:
        name: of the script.
        key: what tells two of its scores of one seed apart.
    """

    out: Path
    name: str
    key: tuple[str, ...]

    def train(self, cells: Sequence[Cell], options: argparse.Namespace) -> None:
        """Train those that are not finished, beside the cells that an earlier command left here.

        Raises:
            Interrupted: a signal arrived; what was reached is saved.
            SnnRlError: a cell holds a run with other settings, or runs failed, after all others.
        """
        cells = list({cell.name: cell for cell in cells}.values())
        command = shlex.join(["python", f"benchmarks/{self.name}.py", *sys.argv[1:]])
        work = Sweep(self.out, options.env, command, ())
        if is_sweep(self.out):
            work = read_sweep(self.out)
            check_release(work)
        work = work.joined(cells)
        missing = [cell for cell in cells if not work.finished(cell)]
        if not missing:
            return
        say(f"training {len(missing)} runs in {self.out}")
        with SweepView(terminal) as view:
            done = run_sweep(
                work, workers=options.workers, ray=options.ray, show=view, only=missing
            )
        if done.failed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in done.failed.items())
            raise SnnRlError(f"{len(done.failed)} of {len(missing)} runs failed: {reasons}")

    def agent(self, cell: Cell, stage: str) -> Agent:
        """A stage that was trained."""
        return load_agent(self.out / cell.name / stage)

    def rows(self) -> list[Row]:
        """All scores that are kept. Raises SnnRlError if their file is damaged."""
        path = self.out / f"{self.name}.json"
        try:
            found: list[Row] = json.loads(read_text(path)) if path.exists() else []
        except ValueError:
            raise SnnRlError(f"{path} is no JSON: remove it to evaluate again") from None
        return found

    def keep(self, fixed: Row, play: Callable[[], Row]) -> None:
        """Keep the scores that `play` gives under the conditions `fixed`, unless they are kept."""
        known = self.rows()
        if any(fixed.items() <= row.items() for row in known):
            return
        say(f"evaluating {', '.join(str(fixed[k]) for k in self.key)}, seed {fixed['seed']}")
        row = play() | fixed
        self.out.mkdir(parents=True, exist_ok=True)
        others = [old for old in known if any(old[k] != row[k] for k in (*self.key, "seed"))]
        write_text(self.out / f"{self.name}.json", json.dumps([*others, row], indent=1))

    def publish(self, text: str) -> None:
        """Write the table, and show it."""
        write_text(self.out / f"{self.name}.md", text)
        sys.stdout.write(text)


def cell(variant: str, config: TrainConfig, after: Sequence[Cell] = ()) -> Cell:
    """The variant's run of one seed, which begins once those are finished that it comes `after`."""
    name = f"{variant}/seed{config.seed}"
    return Cell(name, variant, config.seed, config.model_dump(), tuple(c.name for c in after))


def settings_by_seed(
    options: argparse.Namespace, preset: str | None = None
) -> list[dict[str, Any]]:
    """Settings of each seed: the environment's preset, the one of this name where one is given,
    with the `--set` texts on top."""
    asked = parse_overrides(options.set) | {"env": options.env}
    found = [with_preset(asked | {"seed": seed}, preset) for seed in parse_seeds(options.seeds)]
    torch.set_num_threads(make_config(found[0]).threads)
    return found


def steps_of(agent: Agent) -> int:
    """Environment steps of the agent's own stage."""
    return int(agent.card["provenance"]["steps"])


def seconds_of(agent: Agent) -> float:
    """Seconds that the agent's own stage took."""
    return float(agent.card["provenance"]["seconds"])


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of the mean, by the t-distribution.

    Beyond 31 values it is a little too wide: the quantile stays that of 31.
    """
    if len(values) < 2:
        return math.nan
    quantile = T_975[min(len(values) - 1, len(T_975)) - 1]
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def score(rows: Sequence[Row]) -> str:
    """Mean over seeds ± half a 95 % interval; of one seed, ± the deviation over its games."""
    if not rows:
        return "–"
    means = [row["mean_reward"] for row in rows]
    spread = half_width(means) if len(rows) > 1 else rows[0]["std_reward"]
    return f"{statistics.fmean(means):.1f} ± {spread:.1f}"


def difference(rows: Sequence[Row], others: Sequence[Row]) -> str:
    """Mean ± half a 95 % interval of the scores minus those of `others`, seed by seed; a dash for
    less than two common seeds."""
    rival = {row["seed"]: row["mean_reward"] for row in others}
    gaps = [row["mean_reward"] - rival[row["seed"]] for row in rows if row["seed"] in rival]
    return f"{statistics.fmean(gaps):+.1f} ± {half_width(gaps):.1f}" if len(gaps) > 1 else "–"


def mean_of(rows: Sequence[Row], key: str, form: str) -> str:
    """Mean of a number over seeds; a dash where no row has it."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return format(statistics.fmean(values), form) if values else "–"


def seeds_line(rows: Sequence[Row]) -> str:
    """Which seeds a table shows, and what stands behind ±."""
    seeds = sorted({int(row["seed"]) for row in rows})
    trials = " or ".join(str(n) for n in sorted({int(row["trials"]) for row in rows}))
    spread = "95 % confidence interval over seeds (t-distribution), standard deviation over games"
    return (
        f"Greedy, {trials} full games per agent; seeds {', '.join(map(str, seeds))}. "
        f"Mean ± {spread} where there is one seed alone."
    )


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def chosen(names: Sequence[str] | None, known: Sequence[str], what: str) -> list[str]:
    """`names` in their known order, all where none are given. Raises SnnRlError for others."""
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise SnnRlError(f"there is no {what} {unknown[0]!r}: choose from {'; '.join(known)}")
    return [name for name in known if names is None or name in names]


def named_agents(pairs: Sequence[str]) -> dict[str, str]:
    """Agents by variant from NAME=PATH texts."""
    for pair in pairs:
        if not all(pair.partition("=")):
            raise SnnRlError(f"--agent {pair!r} must look like NAME=PATH")
    return {name: source for name, _, source in (pair.partition("=") for pair in pairs)}


def parser(
    description: str | None, *, seeds: str, trials: int | None, variants: str
) -> argparse.ArgumentParser:
    """The options that all comparisons have, with the defaults of one; without `trials` where it
    is not for the user to say how many games are played."""
    form = argparse.RawDescriptionHelpFormatter
    result = argparse.ArgumentParser(description=description, formatter_class=form)
    add = result.add_argument
    add("--env", default="PositionOnlyCartPole-v1", help="Gymnasium id")
    add("--seeds", default=seeds, help=f"a number N for 0 … N-1, or a range like 2-4 [{seeds}]")
    add("--out", required=True, help="folder of runs and results")
    add("--variants", nargs="+", metavar="NAME", help=variants)
    if trials is not None:
        add("--trials", type=positive, default=trials, help=f"full games per agent [{trials}]")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any training setting")
    add("--workers", type=positive, help="runs at once [one per core]")
    add("--ray", metavar="ADDRESS", help="train on this Ray cluster, as `snn-rl sweep` does")
    return result


def say(text: str) -> None:
    """Progress goes to stderr, so that stdout holds the table alone."""
    sys.stderr.write(f"{text}\n")


def run_script(work: Callable[[], None]) -> int:
    """Exit status of a script whose errors are told in one sentence."""
    keep_freed_memory()
    try:
        work()
    except (KeyboardInterrupt, Interrupted):
        say("stopped; what was reached is saved, and the same command goes on from there")
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        say(f"error: {' '.join(text.split())}")
        return FAILURE
    return 0
