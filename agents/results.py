"""Finds runs, stages and shipped agents; stores their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snn_rl.agents.config import TrainConfig, read_config
from snn_rl.agents.loading import find_agent, zoo
from snn_rl.runs import checkpoint, folder
from snn_rl.runs.folder import RUNS

KEY = "env"
"""Names a run's settings as an agent's."""
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


def newest_run() -> Path | None:
    """The agents' run below runs/ that was started last, if any."""
    return folder.newest_run(RUNS, KEY)


def run_folder(asked: str | Path | None, env_id: str) -> Path:
    """Where a new run goes: the folder that was asked for, or one made for it below runs/.

    Raises:
        SnnRlError: it already holds a run.
        OSError: it cannot be made.
    """
    return folder.new_folder(asked, RUNS / env_id.replace("/", "-"))


def run_to_resume(asked: Path | None) -> tuple[Path, TrainConfig, str]:
    """Folder, configuration and command of the run to go on with, by default the newest.

    Raises:
        SnnRlError: there is none, or it is finished.
    """
    found = folder.to_resume(asked, RUNS, KEY)
    return found, *folder.unfinished(found, read_config)


def stages(run: Path) -> list[Path]:
    """Folders of a run's finished stages, in order of training; empty if it is no run.

    Raises:
        CheckpointError: the run holds no finished stage.
    """
    return folder.stage_folders(run) if (run / folder.CONFIG).exists() else []


def named(source: str) -> list[str]:
    """The agents that a name stands for: all stages of "zoo:<env>", else that agent alone."""
    env = source.removeprefix("zoo:")
    if not source.startswith("zoo:") or not (
        found := [n for n in zoo() if n.startswith(f"{env}/")]
    ):
        return [source]
    return sorted(
        (f"zoo:{name}" for name in found), key=lambda name: folder.stage_order(find_agent(name))
    )


def save_evaluation(run: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Keep the rows of `snn-rl evaluate` beside the run, for its report."""
    checkpoint.write_text(run / folder.EVALUATION, json.dumps(list(rows), indent=1))


def record_scores(rows: Sequence[dict[str, Any]]) -> None:
    """Store each row's scores in its agent's card."""
    for row in rows:
        place = find_agent(row["agent"])
        card = checkpoint.read_card(place)
        card["results"] = {**card.get("results", {}), **{key: row[key] for key in RECORDED}}
        checkpoint.write_text(place / checkpoint.CARD, json.dumps(card, indent=1))


def zoo_rows() -> list[dict[str, Any]]:
    """Cards of the shipped agents, each with its name."""
    return [{"name": name} | checkpoint.read_card(find_agent(f"zoo:{name}")) for name in zoo()]


def unfinished(run: Path) -> tuple[TrainConfig, str]:
    """Configuration and command of a run that can be gone on with.

    Raises:
        SnnRlError: there is no run in the folder, or all of it is done.
    """
    return folder.unfinished(run, read_config)


def is_finished(run: Path) -> bool:
    """Whether the last stage of the run is saved. Raises SnnRlError without a run."""
    return folder.is_finished(run, read_config(run / folder.CONFIG))
