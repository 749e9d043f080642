"""Agents whose files are damaged, foreign or hostile: refused in one sentence, never executed."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_agents import example, saved

from snn_rl.errors import CheckpointError
from snn_rl.runs import checkpoint
from snn_rl.runs.checkpoint import CARD, DIGEST, WEIGHTS, load, save


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load(folder)
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 500
    return message


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    for name in (CARD, WEIGHTS):
        path = tmp_path / "a" / name
        whole = path.read_bytes()
        for length in [*range(0, 12), *range(12, len(whole), 29), len(whole) - 1]:
            path.write_bytes(whole[:length])
            assert name in refused(tmp_path / "a")
        path.write_bytes(whole)
    load(tmp_path / "a")


def test_flipped_bytes_are_refused(tmp_path: Path) -> None:
    """Any damage to the weights is seen, even where the numbers still make sense."""
    saved(tmp_path / "a")
    path = tmp_path / "a" / WEIGHTS
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        refused(tmp_path / "a")


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps({"weight": [1, 2]}))
    return buffer.getvalue()


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 64,
        b"\xff\xfe" * 20,
        pickle.dumps({"format": checkpoint.FORMAT}),
        zipped(),
        b"{}",
        b"[]",
        b"null",
        b'{"format": "another program", "version": 1}',
        b"[" * 100_000,
    ],
    ids=["empty", "zeros", "binary", "pickle", "zip", "object", "list", "null", "other", "deep"],
)
def test_foreign_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    saved(tmp_path / "a")
    (tmp_path / "a" / name).write_bytes(content)
    assert name in refused(tmp_path / "a")


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_loading_never_unpickles(tmp_path: Path, name: str, how: str) -> None:
    saved(tmp_path / "a")
    target, victim = tmp_path / "executed", tmp_path / "a" / name
    if how == "pickle":
        victim.write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save(Bomb(target), victim)
    refused(tmp_path / "a")
    assert not target.exists()
    if how == "pickle":  # the bomb does go off where something unpickles it
        pickle.loads(victim.read_bytes())
        assert target.exists()


def edit(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    for key, value in changes.items():
        if value is None:
            del card[key]
        else:
            card[key] = value
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")


def graph_with(**options: Any) -> list[dict[str, Any]]:
    nodes = [node.to_dict() for node in example().nodes]
    nodes[2]["options"] = nodes[2]["options"] | options
    return nodes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2.*reads version 1"),
        ({"version": "x" * 1000}, "version x+;"),
        ({"version": None}, "version None"),
        ({"format": "other"}, "does not describe"),
        ({"timesteps": 0}, "timesteps"),
        ({"timesteps": "5"}, "timesteps"),
        ({"graph": None}, "damaged"),
        ({"graph": []}, "damaged.*graph is empty"),
        ({"graph": "input"}, "damaged node"),
        ({"graph": [{"name": "a"}]}, "damaged node"),
        ({"graph": graph_with()[:-1]}, "do not fit"),
        ({"graph": graph_with(shape=[5])}, "do not fit"),
        ({"graph": graph_with(shape=[])}, "do not fit"),
        ({"graph": graph_with(shape="four")}, "do not fit"),
        ({"graph": graph_with(leak="galaxy")}, "leak is 'galaxy'"),
        ({"graph": graph_with()[:1]}, "do not fit"),
        ({"graph": [{**graph_with()[0], "op": "exec"}]}, "unknown operation 'exec'"),
        ({"grid": None}, "damaged"),
        ({"grid": {}}, "damaged"),
        ({"grid": {"fc": 10**9, "out": 3}}, "damaged"),
        ({"grid": [1]}, "damaged"),
        ({"surrogate": {"kind": "triangle", "gamma": "big"}}, "damaged"),
        ({"surrogate": {"kind": 5, "gamma": 1}}, "surrogate needs a name"),
        ({"surrogate": {"kind": "magic", "gamma": 0}}, "gamma must be positive"),
        ({"surrogate": {"kind": "triangle", "gamma": 1, "more": 1}}, "damaged"),
        ({DIGEST: None}, "damaged or belongs to another"),
    ],
)
def test_damaged_cards_are_refused(tmp_path: Path, changes: Any, message: str) -> None:
    saved(tmp_path / "a")
    edit(tmp_path / "a", **changes)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "a")
    refused(tmp_path / "a")


@pytest.mark.parametrize("hidden", [4, 5])
def test_weights_of_another_agent_are_refused(tmp_path: Path, hidden: int) -> None:
    """Of the same architecture or of another one; also with a matching digest."""
    saved(tmp_path / "a")
    save(tmp_path / "b", example(1, hidden), 3, {})
    foreign = (tmp_path / "b" / WEIGHTS).read_bytes()
    (tmp_path / "a" / WEIGHTS).write_bytes(foreign)
    assert "belongs to another agent" in refused(tmp_path / "a")
    if hidden == 5:
        edit(tmp_path / "a", **{DIGEST: hashlib.sha256(foreign).hexdigest()})
        assert "do not fit together" in refused(tmp_path / "a")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    saved(tmp_path / "a")
    path = tmp_path / "a" / WEIGHTS
    tensors = load_file(path)
    tensors["lif.threshold"][0] = bad
    save_file(tensors, path)
    edit(tmp_path / "a", **{DIGEST: hashlib.sha256(path.read_bytes()).hexdigest()})
    assert "not finite" in refused(tmp_path / "a")


@pytest.mark.parametrize("missing", [CARD, WEIGHTS, "everything"])
def test_missing_files_are_named(tmp_path: Path, missing: str) -> None:
    saved(tmp_path / "a")
    if missing == "everything":
        assert "holds no agent" in refused(tmp_path / "b")
        (tmp_path / "file").touch()
        assert "holds no agent" in refused(tmp_path / "file")
    else:
        (tmp_path / "a" / missing).unlink()
        assert missing in refused(tmp_path / "a")
