"""A saved network: agent.json (plain data) beside weights.safetensors. Loading executes nothing.

Weights lie on the grid and are stored as int16; thresholds, leaks, running statistics and an
imported ANN's weights as float32. Files are written under a temporary name and renamed, so that a
folder is whole or absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from snn_rl.errors import CheckpointError
from snn_rl.core.graph import node_from_dict
from snn_rl.core.grid import snap
from snn_rl.core.network import Network
from snn_rl.core.neuron import Surrogate

FORMAT = "snn-rl agent"
VERSION = 1
CARD, WEIGHTS, DIGEST = "agent.json", "weights.safetensors", "weights_sha256"


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
    its weights are left, and stored, as float32.
    """
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
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        save_file(tensors, temporary / WEIGHTS)
        with (temporary / WEIGHTS).open("rb") as file:
            os.fsync(file.fileno())
        document[DIGEST] = _digest(temporary / WEIGHTS)
        write_text(temporary / CARD, json.dumps(document, indent=1))
        shutil.copymode(temporary / CARD, temporary / WEIGHTS)  # else its owner alone may read it
        _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(folder: Path) -> tuple[Network, dict[str, Any]]:
    """Network and card from `folder`.

    Raises:
        CheckpointError: one sentence on what is wrong with the folder.
    """
    folder = _whole(folder)
    card = read_card(folder)
    tensors = _read_weights(folder / WEIGHTS, card.get(DIGEST))
    try:
        nodes = [node_from_dict(node) for node in card["graph"]]
        network = Network(nodes, Surrogate(**card["surrogate"]))
        exponents = {str(name): int(k) for name, k in card["grid"].items()}
        state = {f"layers.{name}": _off_grid(name, t, exponents) for name, t in tensors.items()}
        network.load_state_dict(state)
        network.shapes()
    except Exception as error:  # a damaged graph can fail in any way
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(
            f"{folder} is damaged: its layer graph and weights do not fit together ({reason})"
        ) from error
    for value in network.state_dict().values():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"{folder} is damaged: its weights are not finite")
    network.constrain()
    return network.eval(), card


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a saved agent alone. Raises CheckpointError if it is not one."""
    path = _whole(folder) / CARD
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


def _read_weights(path: Path, digest: Any) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no agent: {path.name} is missing")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file") from error
    if _digest(path) != digest:
        raise CheckpointError(f"{path} is damaged or belongs to another agent than {CARD}")
    return tensors


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _off_grid(name: str, value: Tensor, exponents: dict[str, int]) -> Tensor:
    layer = name.rpartition(".")[0]
    return value.float() / 2.0 ** exponents[layer] if value.dtype == torch.int16 else value


def _aside(folder: Path) -> Path:
    """Where the old folder waits while the new one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def _whole(folder: Path) -> Path:
    """`folder`, or what it was if a save died between its two renames."""
    folder = Path(os.path.abspath(folder))
    return _aside(folder) if _aside(folder).is_dir() and not folder.exists() else folder


def _replace_folder(new: Path, folder: Path) -> None:
    """Move `new` to `folder`; at every moment the old or the new one can be loaded."""
    aside = _aside(folder)
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
