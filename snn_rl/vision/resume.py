"""What an exact resume needs, in one safetensors file that is replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from snn_rl.errors import CheckpointError

FILE = "resume.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """An interrupted stage: plain facts (JSON-able) and tensors by group and name."""

    stage: str
    facts: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Tensor]]


class Keeper(Protocol):
    """Stores what an exact resume needs."""

    def save(self, snapshot: Snapshot) -> None:
        """Replace what was stored before."""

    def load(self, stage: str) -> Snapshot | None:
        """What was stored for this stage, if anything."""


@dataclass(frozen=True)
class ResumeFile:
    """Keeps the newest snapshot of a run in `folder`."""

    folder: Path

    def save(self, snapshot: Snapshot) -> None:
        """Replace what was stored before."""
        tensors = {
            f"{group}/{name}": value.detach().cpu().contiguous()
            for group, values in snapshot.tensors.items()
            for name, value in values.items()
        }
        head = json.dumps({"stage": snapshot.stage, "facts": dict(snapshot.facts)})
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{FILE}.{os.getpid()}"
        save_file(tensors, temporary, metadata={"snn-rl": head})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self.folder / FILE)

    def load(self, stage: str) -> Snapshot | None:
        """What was stored for this stage, if anything.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = self.folder / FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                head = json.loads(file.metadata()["snn-rl"])
                if head["stage"] != stage:
                    return None
                tensors: dict[str, dict[str, Tensor]] = {}
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    group, _, name = key.partition("/")
                    tensors.setdefault(group, {})[name] = file.get_tensor(key)
            return Snapshot(head["stage"], head["facts"], tensors)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged: remove it to train its stage from the start"
            ) from error

    def clear(self) -> None:
        """Forget the snapshot: its stage is finished."""
        (self.folder / FILE).unlink(missing_ok=True)


def flat_state(state: Mapping[int, Mapping[str, Any]]) -> dict[str, Tensor]:
    """An optimiser's state as tensors named '<parameter>.<key>'."""
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, values in state.items()
        for key, value in values.items()
        if value is not None
    }


def nested_state(
    tensors: Mapping[str, Tensor], laid_out: Callable[[Tensor], Tensor]
) -> dict[int, dict[str, Tensor]]:
    """The reverse of `flat_state`; `laid_out` brings a tensor into its parameter's memory layout,
    in which fused optimisers need it."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = laid_out(value)
    return state
