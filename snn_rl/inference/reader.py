"""Reads a saved network: agent.json (plain data) beside weights.safetensors, without torch.

Nothing in the files is executed. Every reader of saved agents goes through here.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from snn_rl.core.operations import Shape
from snn_rl.errors import CheckpointError
from snn_rl.inference import checks

FORMAT = "snn-rl agent"
VERSION = 1
CARD, WEIGHTS, DIGEST = "agent.json", "weights.safetensors", "weights_sha256"
TYPES = {"I16": "int16", "F32": "float32", "I64": "int64"}
"""NumPy's names of safetensors' types."""

Weights = dict[str, NDArray[Any]]
"""Values of a network by "layer.parameter", weights and biases off their grid as float32."""


def read(folder: Path) -> tuple[dict[str, Any], Weights]:
    """Card and weights of a saved network.

    Raises:
        CheckpointError: one sentence on what is wrong with the folder.
    """
    folder = whole(folder)
    card = read_card(folder)
    try:
        nodes, grid = checks.check_graph(card)
    except ValueError as error:
        raise CheckpointError(
            f"{folder} is damaged: its layer graph and weights do not fit together ({error})"
        ) from error
    wanted = checks.parameter_shapes(nodes, on_grid=bool(grid))
    stored = _read_weights(folder / WEIGHTS, wanted, card.get(DIGEST))
    weights: Weights = {name: _off_grid(name, value, grid) for name, value in stored.items()}
    try:
        checks.check_values(nodes, grid, weights, card["timesteps"])
    except ValueError as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error
    return card, weights


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a saved agent alone. Raises CheckpointError if it is not one."""
    path = whole(folder) / CARD
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no agent: {CARD} is missing")
    try:
        if path.stat().st_size > checks.LARGEST_CARD:
            raise CheckpointError(f"{path} is too large for a card: it is damaged or foreign")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is no readable JSON: it is damaged or foreign") from error
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no readable JSON: it is damaged or foreign") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise CheckpointError(f"{path} does not describe an snn-rl agent")
    if card.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has format version {str(card.get('version'))[:20]}; this snn-rl reads "
            f"version {VERSION}: install a matching release"
        )
    timesteps = card.get("timesteps")
    if type(timesteps) is not int or not 1 <= timesteps <= checks.MOST_TIMESTEPS:
        raise CheckpointError(
            f"{path} is damaged: its timesteps are not a number from 1 to {checks.MOST_TIMESTEPS}"
        )
    if any(_moves_cursors(text) for text in _texts(card)):
        raise CheckpointError(f"{path} holds control characters: it is damaged or foreign")
    if not all(isinstance(card.get(key, {}), dict) for key in ("results", "provenance")):
        raise CheckpointError(f"{path} is damaged: its results or its provenance are no mapping")
    return card


def _texts(value: Any) -> Iterator[str]:
    """All texts of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield key
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)


def _moves_cursors(text: str) -> bool:
    """Whether a terminal would obey to a part of it. Commands may hold ends of lines."""
    if text.isprintable():
        return False
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t" for c in text)


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


def _read_weights(path: Path, wanted: Mapping[str, tuple[Shape, str]], known: Any) -> Weights:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no agent: {path.name} is missing")
    try:
        checks.check_size(path.stat().st_size, wanted)
        if digest(path) != known:
            raise CheckpointError(f"{path} is damaged or belongs to another agent than {CARD}")
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            header = {
                name: (tuple(of.get_shape()), TYPES.get(of.get_dtype(), of.get_dtype()))
                for name, of in slices.items()
            }
        checks.check_header(header, wanted)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path.parent} is damaged: its layer graph and weights do not fit together ({error})"
        ) from error
    arrays: Weights = load_file(path)
    return arrays


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    """Trouble of the machine, which is no damage."""
    return CheckpointError(f"{path} cannot be read: {error.strerror or error}")


def _off_grid(name: str, value: NDArray[Any], exponents: Mapping[str, int]) -> NDArray[Any]:
    if value.dtype != np.int16:
        return value
    layer = name.rpartition(".")[0]
    return value.astype(np.float32) / np.float32(2.0 ** exponents[layer])
