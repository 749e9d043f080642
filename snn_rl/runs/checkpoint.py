"""A saved network: agent.json (plain data) beside weights.safetensors. Loading executes nothing.

Weights lie on the grid and are stored as int16; thresholds, leaks, running statistics and an
imported ANN's weights as float32. Files are written under a temporary name and renamed, so that a
folder is whole or absent.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from snn_rl.core.graph import node_from_dict
from snn_rl.core.grid import snap
from snn_rl.core.network import Network
from snn_rl.core.surrogates import Surrogate
from snn_rl.errors import CheckpointError
from snn_rl.inference.checks import MOST_TIMESTEPS
from snn_rl.inference.reader import (
    CARD,
    DIGEST,
    FORMAT,
    VERSION,
    WEIGHTS,
    digest,
    read,
    read_card,
    set_aside,
)

__all__ = ["CARD", "FORMAT", "check_place", "load", "read_card", "remove", "save", "write_text"]

PARTS = (CARD, WEIGHTS)
"""Files of a saved network."""


def save(
    folder: Path,
    network: Network,
    timesteps: int,
    card: Mapping[str, Any],
    *,
    on_grid: bool = True,
) -> None:
    """Write `network`, snapped to its grid, and `card` (JSON-able) to `folder`, atomically.

    The network itself is snapped in place: what is saved is what was scored. With `on_grid` False
    its weights are left, and stored, as float32. A folder that is there already must be empty or
    hold a saved network, beside which other files stay as they are.

    Raises:
        CheckpointError: the folder holds something else.
    """
    if not 1 <= timesteps <= MOST_TIMESTEPS:
        raise ValueError(f"an agent is saved at 1 to {MOST_TIMESTEPS} timesteps, not {timesteps}")
    exponents = snap(network, timesteps) if on_grid else {}
    tensors: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        layer, _, kind = name.removeprefix("layers.").rpartition(".")
        if layer in exponents and kind in ("weight", "bias"):
            value = torch.round(value * 2.0 ** exponents[layer]).to(torch.int16)
        tensors[name.removeprefix("layers.")] = value.detach().cpu().contiguous()
    document = {
        **card,
        "format": FORMAT,
        "version": VERSION,
        "timesteps": timesteps,
        "surrogate": {"kind": network.surrogate.kind, "gamma": network.surrogate.gamma},
        "grid": exponents,
        "graph": [node.to_dict() for node in network.nodes],
    }
    folder = Path(os.path.realpath(folder))
    check_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        save_file(tensors, temporary / WEIGHTS)
        with (temporary / WEIGHTS).open("rb") as file:
            os.fsync(file.fileno())
        document[DIGEST] = digest(temporary / WEIGHTS)
        write_text(temporary / CARD, json.dumps(document, indent=1))
        shutil.copymode(temporary / CARD, temporary / WEIGHTS)  # else its owner alone may read it
        _put(temporary, folder)
    finally:
        remove(temporary)


def load(folder: Path) -> tuple[Network, dict[str, Any]]:
    """Network and card from `folder`.

    Raises:
        CheckpointError: one sentence on what is wrong with the folder.
    """
    card, weights = read(folder)
    try:
        nodes = [node_from_dict(node) for node in card["graph"]]
        network = Network(nodes, Surrogate(**card["surrogate"]))
        network.load_state_dict(
            {f"layers.{name}": torch.from_numpy(value) for name, value in weights.items()}
        )
        network.timesteps = card["timesteps"]
        network.carry_membrane = bool(card.get("carry_membrane", False))
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(
            f"{folder} is damaged: its layer graph and weights do not fit together ({reason})"
        ) from error
    network.constrain()
    return network.eval(), card


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(folder: Path) -> None:
    """Whether a network may be saved to `folder`: it is missing, empty, or holds one already.

    Raises:
        CheckpointError: it holds something else, which saving would have to remove.
    """
    if folder.is_dir():
        if not _others(folder):
            return
        if (folder / CARD).is_file() and read_card(folder):
            return
        raise CheckpointError(f"{folder} holds other files and no agent: choose another folder")
    if os.path.lexists(folder):
        raise CheckpointError(f"{folder} is no folder: choose another name")


def remove(folder: Path) -> None:
    """Remove a saved network, and its folder if nothing else is in it."""
    for name in (*PARTS, *_unfinished(folder)):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # another's file is in it, or it is gone
        folder.rmdir()


def _others(folder: Path) -> set[str]:
    """Names of what does not belong to a saved network."""
    return set(os.listdir(folder)) - {*PARTS, *_unfinished(folder)}


def _unfinished(folder: Path) -> list[str]:
    """Names of what `write_text` leaves of a card when it is killed."""
    return [path.name for path in folder.glob(f".{CARD}.*") if path.suffix[1:].isdecimal()]


def _put(new: Path, folder: Path) -> None:
    """Move `new` to `folder`. At every moment the old or the new network can be loaded, but where
    other files lie beside it: there the weights and the card are replaced one after the other."""
    if folder.is_dir() and _others(folder):
        for name in (WEIGHTS, CARD):
            (new / name).replace(folder / name)
        return
    old = set_aside(folder)
    if folder.exists():
        remove(old)
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    remove(old)
