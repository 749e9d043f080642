"""Finds runs, stages and shipped agents; stores their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snn_rl.agents.config import TrainConfig, make_config
from snn_rl.agents.loading import find_agent, zoo
from snn_rl.agents.run import CONFIG, HEADER
from snn_rl.errors import CheckpointError, SnnRlError
from snn_rl.runs import checkpoint
from snn_rl.runs.owner import make_folder
from snn_rl.support.settings import read_yaml

RECORDED = (
    "trials",
    "exact",
    "distinct_trials",
    "validation_starts",
    "failures",
    "mean_reward",
    "std_reward",
    "standard_error",
    "spike_rate",
    "spike_rates",
    "alpha",
)


def newest_run(root: Path) -> Path | None:
    """The run below `root` that was started last, if any."""
    runs = [file.parent for file in root.glob(f"*/*/{CONFIG}")]
    return max(runs, key=lambda run: (run / CONFIG).stat().st_mtime, default=None)


def run_folder(given: str | Path | None, env_id: str) -> Path:
    """Where a new run goes: the folder that was asked for, or one made for it below runs/.

    Raises:
        SnnRlError: it already holds a run.
        OSError: it cannot be made.
    """
    folder = Path(given) if given else make_folder(Path("runs") / env_id.replace("/", "-"))
    if (folder / CONFIG).exists():
        raise SnnRlError(f"{folder} already holds a run: choose another --run-dir")
    return folder


def run_to_resume(given: Path | None) -> tuple[Path, TrainConfig, str]:
    """Folder, configuration and command of the run to go on with, by default the newest.

    Raises:
        SnnRlError: there is none, or it is finished.
    """
    folder = given or newest_run(Path("runs"))
    if folder is None:
        raise SnnRlError("there is no run to resume below runs/: name one by --run-dir")
    return folder, *unfinished(folder)


def stages(run: Path) -> list[Path]:
    """Folders of a run's finished stages: teacher, ANN, then falling T; empty if it is no run."""
    if not (run / CONFIG).exists():
        return []
    # Names with a dot in front are what an interrupted save left behind.
    found = [card.parent for card in run.glob(f"[!.]*/{checkpoint.CARD}")]
    if not found:
        raise CheckpointError(f"{run} holds no finished stage yet")
    return sorted(found, key=_stage_order)


def named(source: str) -> list[str]:
    """The agents that a name stands for: all stages of "zoo:<env>", else that agent alone."""
    env = source.removeprefix("zoo:")
    if not source.startswith("zoo:") or not (
        found := [n for n in zoo() if n.startswith(f"{env}/")]
    ):
        return [source]
    return sorted(
        (f"zoo:{name}" for name in found), key=lambda name: _stage_order(find_agent(name))
    )


def save_evaluation(run: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Keep the rows of `snn-rl evaluate` beside the run, for its report."""
    checkpoint.write_text(run / "evaluation.json", json.dumps(list(rows), indent=1))


def record_scores(rows: Sequence[dict[str, Any]]) -> None:
    """Store each row's scores in its agent's card."""
    for row in rows:
        folder = find_agent(row["agent"])
        card = checkpoint.read_card(folder)
        card["results"] = {**card.get("results", {}), **{key: row[key] for key in RECORDED}}
        checkpoint.write_text(folder / checkpoint.CARD, json.dumps(card, indent=1))


def zoo_rows() -> list[dict[str, Any]]:
    """Cards of the shipped agents, each with its name."""
    return [{"name": name} | checkpoint.read_card(find_agent(f"zoo:{name}")) for name in zoo()]


def unfinished(folder: Path) -> tuple[TrainConfig, str]:
    """Configuration and command of a run that can be gone on with.

    Raises:
        SnnRlError: there is no run in `folder`, or all of it is done.
    """
    if not (folder / CONFIG).exists():
        raise SnnRlError(f"{folder} holds no run to resume: there is no {CONFIG}")
    if is_finished(folder):
        raise SnnRlError(f"{folder} is finished: there is nothing to resume")
    config = make_config(read_yaml(folder / CONFIG), str(folder / CONFIG))
    first = (folder / CONFIG).read_text(encoding="utf-8").partition("\n")[0]
    return config, first.removeprefix(HEADER)


def is_finished(folder: Path) -> bool:
    """Whether the last stage of the run in `folder` is saved. Raises SnnRlError without a run."""
    config = make_config(read_yaml(folder / CONFIG), str(folder / CONFIG))
    return (folder / config.stage_names()[-1] / checkpoint.CARD).exists()


def _stage_order(folder: Path) -> tuple[int, int, str]:
    card = checkpoint.read_card(folder)
    name = str(card.get("stage"))
    first = 0 if name.startswith("teacher") else 1 if name == "ann" else 2
    return first, -int(card["timesteps"]), name
