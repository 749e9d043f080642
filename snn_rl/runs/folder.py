"""A run's folder: the settings it was begun with, the stages that it holds, those that it lacks.

    config.yaml            the resolved settings, below the command that gave them
    ann/ T5/ … T1/         finished stages, each loadable by itself
    interrupted/T3/        the best of a stage that was stopped
    resume/                what an exact resume of the current stage needs
    metrics.jsonl tensorboard/ evaluation.json report.md figures/

The same for agents and classifiers. A folder is all that a run remembers: to go on with it is to
train the stages that it does not hold yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from snn_rl.errors import CheckpointError, SnnRlError
from snn_rl.runs.checkpoint import CARD, read_card, remove, write_text
from snn_rl.runs.owner import foreign, make_folder
from snn_rl.runs.resume import RESUME, STATE, discard
from snn_rl.support.files import read_text

CONFIG, HEADER = "config.yaml", "# "
EVALUATION, INTERRUPTED = "evaluation.json", "interrupted"
METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
REPORT, FIGURES = "report.md", "figures"
_FILES = (INTERRUPTED, RESUME, EVALUATION, METRICS, TENSORBOARD, REPORT, FIGURES)
_NAMES = re.compile("|".join([*map(re.escape, _FILES), r"teacher|ann|T\d+[\w-]*"]))
"""What a run gives to its files and folders, beside config.yaml."""
RUNS = Path("runs")
FREE = {"save_every", "device", "threads", "workers", "data"}
"""Settings that may change before a run is gone on with."""


class Interrupted(Exception):
    """Training was asked to stop; what was reached is saved in the run's folder."""


class RunSettings(Protocol):
    """Settings of a run, of agents or of classifiers."""

    def stage_names(self) -> list[str]:
        """All stages in order of training, without a teacher's."""

    def model_dump(self) -> dict[str, Any]:
        """Plain data."""

    def model_dump_json(self, *, exclude: set[str]) -> str:
        """The same as JSON, without some."""


S = TypeVar("S", bound=RunSettings)


def new_folder(asked: str | Path | None, parent: Path) -> Path:
    """Where a new run goes: the folder that was asked for, or one made for it in `parent`.

    Raises:
        SnnRlError: it already holds a run, or something that a run would write over.
        OSError: it cannot be made.
    """
    folder = Path(asked) if asked else make_folder(parent)
    if (folder / CONFIG).exists():
        raise SnnRlError(_taken(folder))
    if folder.exists() and not folder.is_dir():
        raise SnnRlError(f"{folder} is no folder: choose another --run-dir")
    mine = [path.name for path in sorted(folder.glob("*")) if _NAMES.fullmatch(path.name)]
    mine += foreign(folder)
    if mine:
        raise SnnRlError(
            f"{folder} holds {mine[0]}, which a run would write over: choose another --run-dir"
        )
    return folder


def newest_run(root: Path, key: str) -> Path | None:
    """The run below `root` (in ENV/TIME or the like) that was started last, if any.

    Args:
        key: that its settings have: "env" of agents, "dataset" of classifiers.
    """
    runs = [file for file in root.glob(f"*/*/{CONFIG}") if _names(file, key)]
    newest = max(runs, key=lambda file: file.stat().st_mtime, default=None)
    return newest and newest.parent


def to_resume(asked: Path | None, root: Path, key: str) -> Path:
    """The run to go on with: the one that was asked for, or the newest.

    Raises:
        SnnRlError: there is none.
    """
    folder = asked or newest_run(root, key)
    if folder is None:
        raise SnnRlError(f"there is no run to resume below {root}/: name one by --run-dir")
    return folder


def begin(folder: Path, settings: S, command: str, read: Callable[[Path], S], fresh: bool) -> None:
    """Write the settings into a new run's folder, or see that it was begun with the same ones.

    Args:
        command: how to reproduce the run.
        read: reads the settings from a file.
        fresh: it must not hold a run yet.

    Raises:
        SnnRlError: it holds a run where none may be, or one with other settings.
    """
    if not (folder / CONFIG).exists():
        text = yaml.safe_dump(settings.model_dump(), sort_keys=False)
        write_text(folder / CONFIG, f"{HEADER}{command}\n{text}")
    elif fresh:
        raise SnnRlError(_taken(folder))
    else:
        holds_run(folder, settings, read)


def holds_run(folder: Path, settings: S, read: Callable[[Path], S]) -> bool:
    """Whether a run of these settings, finished or not, lies in `folder`.

    Raises:
        SnnRlError: there is one, with other settings.
    """
    if not (folder / CONFIG).exists():
        return False
    known = lasting(read(folder / CONFIG))
    other = [key for key, value in lasting(settings).items() if value != known[key]]
    if other:
        raise SnnRlError(
            f"{folder} holds a run with other settings ({', '.join(other)}): choose another folder"
        )
    return True


def lasting(settings: RunSettings) -> dict[str, Any]:
    """Those that must stay as they were when the run began: JSON, as it is read back."""
    found: dict[str, Any] = json.loads(settings.model_dump_json(exclude=FREE))
    return found


def unfinished(folder: Path, read: Callable[[Path], S]) -> tuple[S, str]:
    """Settings and command of a run that can be gone on with.

    Raises:
        SnnRlError: there is no run in `folder`, or all of it is done.
    """
    path = folder / CONFIG
    if not path.exists():
        raise SnnRlError(f"{folder} holds no run to resume: there is no {CONFIG}")
    settings = read(path)
    if is_finished(folder, settings):
        raise SnnRlError(f"{folder} is finished: there is nothing to resume")
    first = read_text(path).partition("\n")[0]
    return settings, first.removeprefix(HEADER) if first.startswith(HEADER) else ""


def is_finished(folder: Path, settings: RunSettings) -> bool:
    """Whether the last stage is saved."""
    return all(holds(folder, name) for name in settings.stage_names()[-1:])


def holds(folder: Path, stage: str) -> bool:
    """Whether a stage is finished and saved."""
    return (folder / stage / CARD).is_file()


def held(folder: Path, timesteps: Sequence[int]) -> list[int]:
    """Those of the spiking stages, from the first on, that the folder holds."""
    return [t for t in timesteps if holds(folder, f"T{t}")]


def can_resume(folder: Path) -> bool:
    """Whether the current stage goes on from where it was saved."""
    return (folder / RESUME / STATE).exists()


def keep(folder: Path, stage: str, save: Callable[[Path], None], *, interrupted: bool) -> None:
    """Save a stage that is finished, or the best of one that was stopped."""
    if interrupted:
        save(folder / INTERRUPTED / stage)
        return
    save(folder / stage)
    discard(folder / RESUME)
    for stopped in (folder / INTERRUPTED).glob("*"):
        remove(stopped)
    with suppress(OSError):  # another's file is in it, or there is none
        (folder / INTERRUPTED).rmdir()


def stage_folders(run: Path) -> list[Path]:
    """Folders of the finished stages: teacher, ANN, falling T, then what was pruned.

    Raises:
        CheckpointError: there is none.
    """
    # Names with a dot in front are what an interrupted save left behind.
    found = [card.parent for card in run.glob(f"[!.]*/{CARD}")]
    if not found:
        raise CheckpointError(f"{run} holds no finished stage yet")
    return sorted(found, key=stage_order)


def stage_order(folder: Path) -> tuple[int, int, str]:
    """Sorts the folders of stages as they were trained. Raises CheckpointError where it is none."""
    return stage_rank(str(read_card(folder).get("stage")))


def stage_rank(name: str) -> tuple[int, int, str]:
    """Sorts the names of stages: teacher, ANN, T from high to low, then what was pruned."""
    kind, digits = re.match(r"([A-Za-z]*)(\d*)", name).groups()  # type: ignore[union-attr]
    rank = {"teacher": 0, "ann": 1, "T": 2}.get(kind, 3)
    return rank, -int(digits) if rank == 2 and digits else 0, name


def shown(folder: Path) -> str:
    """A folder as commands name it: relative where it lies below the working folder."""
    whole = folder.resolve()
    inside = whole.is_relative_to(Path.cwd())
    return whole.relative_to(Path.cwd()).as_posix() if inside else folder.name


def _names(file: Path, key: str) -> bool:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.startswith(f"{key}:") for line in lines)


def _taken(folder: Path) -> str:
    return f"{folder} already holds a run: choose another --run-dir, or --resume it"
