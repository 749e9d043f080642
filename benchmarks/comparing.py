"""What the comparisons share: settings, runs that are reused, results over seeds."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import snn_rl
from snn_rl.agents.agent import Agent
from snn_rl.agents.config import TrainConfig, read_config, with_preset
from snn_rl.agents.loading import load_agent
from snn_rl.commands.output import FAILURE, INTERRUPTED
from snn_rl.errors import SnnRlError
from snn_rl.runs.checkpoint import write_text
from snn_rl.runs.folder import Interrupted, holds, holds_run, is_finished
from snn_rl.support.settings import parse_overrides

Row = dict[str, Any]

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5 % quantiles of the t-distribution with 1 … 30 degrees of freedom."""


def settings(env: str, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """The environment's preset with `--set` texts, the environment and the seed on top."""
    return with_preset(parse_overrides(overrides) | {"env": env, "seed": seed})


def train_or_reuse(config: TrainConfig, folder: Path) -> dict[str, Agent]:
    """Agents of a run by stage, "ann", "T5", …; trained where `folder` does not hold them yet.

    Raises:
        Interrupted: a signal arrived; what was reached is saved.
        SnnRlError: the folder holds a run with other settings.
    """
    begun = holds_run(folder, config, read_config)
    if not is_finished(folder, config):
        say(f"training {folder}")
        snn_rl.train(config, run_dir=folder, resume=begun)
    return {n: load_agent(folder / n) for n in config.stage_names() if holds(folder, n)}


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


def read_rows(path: Path) -> list[Row]:
    """The rows kept in a file; none without it. Raises SnnRlError if it is damaged."""
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError:
        raise SnnRlError(f"{path} is no JSON: remove it to evaluate again") from None
    return rows


def find_row(path: Path, wanted: Mapping[str, Any]) -> Row | None:
    """The kept row with these values."""
    return next((row for row in read_rows(path) if wanted.items() <= row.items()), None)


def keep_row(path: Path, row: Row, key: Sequence[str]) -> None:
    """Add a row to the file, in place of one that has the same values of `key`."""
    others = [old for old in read_rows(path) if any(old[name] != row[name] for name in key)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps([*others, row], indent=1))


def all_rows(out: Path, name: str) -> list[Row]:
    """The rows of all seeds."""
    return [row for path in sorted(out.glob(f"seed*/{name}")) for row in read_rows(path)]


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


def seeds_of(text: str) -> list[int]:
    """Seeds of a text such as "0-4" or "0,2,5". Raises SnnRlError for any other."""
    result: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise SnnRlError(f"--seeds {text!r} must look like 0-4 or 0,2,5")
        result += range(int(first), int(last) + 1)
    return list(dict.fromkeys(result))


def chosen(names: Sequence[str] | None, known: Sequence[str], what: str) -> list[str]:
    """`names` in their known order, all where none are given. Raises SnnRlError for others."""
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise SnnRlError(f"there is no {what} {unknown[0]!r}: choose from {'; '.join(known)}")
    return [name for name in known if names is None or name in names]


def say(text: str) -> None:
    """Progress goes to stderr, so that stdout holds the table alone."""
    sys.stderr.write(f"{text}\n")


def run_script(work: Callable[[], None]) -> int:
    """Exit status of a script whose errors are told in one sentence."""
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
