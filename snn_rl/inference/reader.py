"""Reads a saved network: agent.json (plain data) beside weights.safetensors, without torch.

Nothing in the files is executed. Every reader of saved agents goes through here.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from snn_rl.errors import CheckpointError

FORMAT = "snn-rl agent"
VERSION = 1
CARD, WEIGHTS, DIGEST = "agent.json", "weights.safetensors", "weights_sha256"

Weights = dict[str, NDArray[Any]]
"""Values of a network by "layer.parameter", weights and biases off their grid as float32."""


def read(folder: Path) -> tuple[dict[str, Any], Weights]:
    """Card and weights of a saved network.

    Raises:
        CheckpointError: one sentence on what is wrong with the folder.
    """
    folder = whole(folder)
    card = read_card(folder)
    stored = _read_weights(folder / WEIGHTS, card.get(DIGEST))
    try:
        exponents = {str(name): int(k) for name, k in card["grid"].items()}
        weights = {name: _off_grid(name, value, exponents) for name, value in stored.items()}
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is damaged: its weights and their grid do not fit together ({error})"
        ) from error
    if not all(np.isfinite(value).all() for value in weights.values()):
        raise CheckpointError(f"{folder} is damaged: its weights are not finite")
    return card, weights


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a saved agent alone. Raises CheckpointError if it is not one."""
    path = whole(folder) / CARD
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no agent: {CARD} is missing")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no readable JSON: it is damaged or foreign") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise CheckpointError(f"{path} does not describe an snn-rl agent")
    if card.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has format version {str(card.get('version'))[:20]}; this snn-rl reads "
            f"version {VERSION}: install a matching release"
        )
    if not isinstance(card.get("timesteps"), int) or card["timesteps"] < 1:
        raise CheckpointError(f"{path} is damaged: its timesteps are not a positive number")
    return card


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(folder: Path) -> Path:
    """Where the old folder waits while the new one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def whole(folder: Path) -> Path:
    """`folder`, or what it was if a save died between its two renames."""
    folder = Path(os.path.abspath(folder))
    return set_aside(folder) if set_aside(folder).is_dir() and not folder.exists() else folder


def _read_weights(path: Path, known: Any) -> Weights:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no agent: {path.name} is missing")
    try:
        arrays: Weights = load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file") from error
    if digest(path) != known:
        raise CheckpointError(f"{path} is damaged or belongs to another agent than {CARD}")
    return arrays


def _off_grid(name: str, value: NDArray[Any], exponents: dict[str, int]) -> NDArray[Any]:
    if value.dtype != np.int16:
        return value
    layer = name.rpartition(".")[0]
    return value.astype(np.float32) / np.float32(2.0 ** exponents[layer])
