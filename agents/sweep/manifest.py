"""What a sweep consists of: sweep.json names its cells, each an ordinary run in a folder below it.

SWEEP/sweep.json          the cells and their complete settings
SWEEP/seed0/ …            without a grid
SWEEP/hidden=64/seed0/ …  with one
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

import snn_rl
from snn_rl.agents.config import TrainConfig, make_config
from snn_rl.errors import ConfigError, SnnRlError
from snn_rl.runs.checkpoint import CARD, write_text
from snn_rl.runs.folder import CONFIG, HEADER, lasting
from snn_rl.support.files import read_text
from snn_rl.support.settings import merge, parse_value

MANIFEST = "sweep.json"
FORMAT, VERSION = "snn-rl sweep", 1


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: of its folder below the sweep's.
        variant: what sets it apart beside its seed, e.g. "hidden=[64]"; empty without a grid.
        settings: complete and validated, as plain data.
        after: names of cells whose agents it starts from or learns from.
    """

    name: str
    variant: str
    seed: int
    settings: dict[str, Any]
    after: tuple[str, ...] = ()

    @property
    def config(self) -> TrainConfig:
        """The settings, validated."""
        return make_config(self.settings, self.name)

    @property
    def stages(self) -> list[str]:
        """Names of its stages in order of training, without a teacher's."""
        return self.config.stage_names()


@dataclass(frozen=True)
class Sweep:
    """The cells below `folder`, and what made them.

    Attributes:
        release: of snn-rl.
    """

    folder: Path
    env: str
    command: str
    cells: tuple[Cell, ...]
    release: str = snn_rl.__version__

    def path(self, cell: Cell) -> Path:
        """The cell's run folder."""
        return self.folder / cell.name

    def finished(self, cell: Cell) -> bool:
        """Whether the last stage of the cell is saved."""
        return (self.path(cell) / cell.stages[-1] / CARD).exists()

    @property
    def variants(self) -> list[str]:
        """All variants in the grid's order."""
        return list(dict.fromkeys(cell.variant for cell in self.cells))

    def write(self) -> None:
        """Write the manifest atomically, and the configuration of each cell that lacks one.

        Raises:
            OSError: it cannot be written.
        """
        cells = [asdict(cell) for cell in self.cells]
        document = {"format": FORMAT, "version": VERSION, "release": self.release}
        document |= {"env": self.env, "command": self.command}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / MANIFEST, json.dumps({**document, "cells": cells}, indent=1))
        for cell in self.cells:
            self._write_config(cell)

    def _write_config(self, cell: Cell) -> None:
        path = self.path(cell) / CONFIG
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(cell.settings)
            write_text(path, f"{HEADER}{self.command}  # {cell.name}\n{text}")

    def joined(self, cells: Sequence[Cell]) -> Sweep:
        """This sweep and further cells.

        Raises:
            SnnRlError: a cell has another environment, or other settings than one of its name.
        """
        known = {cell.name: cell for cell in self.cells}
        for cell in cells:
            before = known.setdefault(cell.name, cell)
            if cell.settings["env"] != self.env:
                raise SnnRlError(f"{self.folder} holds runs on {self.env}: choose another --out")
            old = lasting(before.config)
            other = [key for key, value in lasting(cell.config).items() if old[key] != value]
            if other:
                raise SnnRlError(
                    f"{self.path(cell)} holds a run with other settings ({', '.join(other)}): "
                    "choose another --out"
                )
        return replace(self, cells=tuple(known.values()))


def is_sweep(folder: Path) -> bool:
    """Whether the folder holds a sweep."""
    return (folder / MANIFEST).is_file()


def read_sweep(folder: Path) -> Sweep:
    """The sweep in `folder`.

    Raises:
        SnnRlError: there is none, it is damaged, or another version made it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise SnnRlError(f"{folder} holds no sweep: there is no {MANIFEST}")
    try:
        document = json.loads(read_text(path))
        if document["format"] != FORMAT:
            raise ValueError
        if document["version"] != VERSION:
            raise SnnRlError(
                f"{path} has version {str(document['version'])[:20]}, and this snn-rl reads "
                f"version {VERSION}: install a matching release"
            )
        cells = tuple(Cell(**cell | {"after": tuple(cell["after"])}) for cell in document["cells"])
        _refuse_outside(cells)
        env, command = document["env"], document["command"]
        return Sweep(folder.absolute(), env, command, cells, document["release"])
    except SnnRlError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        raise SnnRlError(f"{path} is damaged or foreign: restore it, or start anew") from None


def check_release(sweep: Sweep) -> None:
    """Refuse to go on with a sweep whose first cells another release of snn-rl trained.

    Raises:
        SnnRlError: the releases differ.
    """
    if sweep.release != snn_rl.__version__:
        raise SnnRlError(
            f"{sweep.folder} was begun by snn-rl {sweep.release}, and this is "
            f"{snn_rl.__version__}: finish it with that release, or start a new sweep"
        )


def newest_sweep(root: Path) -> Path:
    """The sweep below `root` that was started last. Raises SnnRlError without one."""
    found = list(root.glob(f"*/*/{MANIFEST}"))
    if not found:
        raise SnnRlError(f"there is no sweep below {root}/: name one by --out")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def make_sweep(
    folder: Path,
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    grid: Mapping[str, Sequence[Any]],
    command: str,
) -> Sweep:
    """The sweep of all combinations of the grid's values with all seeds; nothing is written.

    Args:
        settings: of all cells, preset included.
        grid: values by dotted key, e.g. {"ann.learning_rate": [1e-3, 5e-4]}.

    Raises:
        SnnRlError: an unknown key, a value that its key does not take, or nothing to train.
    """
    for key in ("env", "seed"):
        if key in grid:
            remedy = "use --seeds" if key == "seed" else "make a sweep for each environment"
            raise SnnRlError(f"--grid cannot vary {key}: {remedy}")
    if not seeds or not all(grid.values()):
        raise SnnRlError("a sweep needs at least one seed, and a value for each key of --grid")
    cells: dict[str, Cell] = {}
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        variant = " ".join(f"{key}={_shown(value)}" for key, value in chosen.items())
        for seed in seeds:
            nested = [_nested(key, value) for key, value in chosen.items()]
            full: Mapping[str, Any] = merge(settings, {"seed": seed})
            for changes in nested:
                full = merge(full, changes)
            source = f"--grid {variant}" if variant else "configuration"
            plain = make_config(full, source).model_dump()
            name = f"{_folder_name(variant)}/seed{seed}" if variant else f"seed{seed}"
            if name in cells:
                raise SnnRlError(f"two cells would be called {name!r}: leave one of them out")
            cells[name] = Cell(name, variant, seed, plain)
    return Sweep(folder.absolute(), str(settings["env"]), command, tuple(cells.values()))


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Values by key from "key=a,b,c" texts; values are read as YAML, so that lists are, too.

    Raises:
        ConfigError: another form, or a key that is given twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not key or not equals or not values.strip():
            raise ConfigError(f"--grid {text!r} must look like key=a,b, e.g. hidden=[64],[128]")
        if key in grid:
            raise ConfigError(f"--grid {key} is given twice: list all its values at once")
        grid[key] = list(parse_value(f"[{values}]", f"--grid {key}"))
    return grid


def parse_seeds(text: str) -> list[int]:
    """Seeds 0 … N-1 of "N", or those of a range "10-14". Raises SnnRlError for another text."""
    first, dash, last = text.partition("-")
    if first.isdecimal() and last.isdecimal() and int(first) <= int(last):
        return list(range(int(first), int(last) + 1))
    if not dash and first.isdecimal() and int(first) > 0:
        return list(range(int(first)))
    raise SnnRlError(f"--seeds {text!r} must be a number from 1, or a range such as 10-14")


def _refuse_outside(cells: Sequence[Cell]) -> None:
    for cell in cells:
        path = Path(cell.name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {int(part) if part.isdecimal() else part: value}
    found: dict[str, Any] = value
    return found


def _shown(value: Any) -> str:
    """A value as YAML in one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def _folder_name(variant: str) -> str:
    """The variant without what file systems and shells take amiss."""
    return re.sub(r"[^\w.=+,-]+", "_", variant.replace("[", "").replace("]", "")).strip("_.")
