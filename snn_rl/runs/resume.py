"""Saving a training so that it can be resumed exactly: after a signal, a crash or a kill.

A state is a tree of mappings with JSON-able values, arrays and tensors at its leaves: weights,
optimiser, target, membranes, random generators, the seeds and actions of unfinished episodes. It
goes into one file, written beside the training in a thread and then renamed: tensors as
safetensors, the rest as JSON, so that reading it executes nothing. A replay is not part of it:
its arrays are files already, mapped into memory; they keep enough older steps that those of the
last save stay intact until the next one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from snn_rl.errors import CheckpointError
from snn_rl.runs.provenance import bits_depend_on
from snn_rl.support.files import LARGEST_RECORDS

log = logging.getLogger(__name__)

RESUME, STATE, REPLAY = "resume", "state.safetensors", "replay"
UNFINISHED = f".{STATE}"
"""A state that is being written."""
MACHINE, DIGEST = "machine", "sha256"
VERSION = "4"
"""Of the states; to be raised when what they hold changes."""
PAUSE = 60.0
"""Saves are apart by at least this many times what one costs: they take below 2 % of the time."""
FIRST_PAUSE = 0.5
"""Seconds after a resume in which nothing new is saved."""


class Saver:
    """Keeps the newest state of a stage in `folder`.

    Args:
        folder: holds the state, and the replay's files below `replay`.
        every: seconds between saves, at least.
        check: called before each save; raises where this process may not write any more.
        settings: those that a state is only good for, JSON-able.

    Raises:
        CheckpointError: the folder, or what it holds, is a link.
    """

    def __init__(
        self,
        folder: Path,
        every: float,
        check: Callable[[], None] = lambda: None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.every, self.check = folder, every, check
        self.settings = dict(settings or {})
        self.cost = 0.0
        self.saved_at = -float("inf")
        self.resumed_at: float | None = None
        for path in (folder, folder / STATE, self.replay_files, *self.replay_files.glob("*")):
            if path.is_symlink():
                raise CheckpointError(f"{path} is a link, which no run makes: remove it")
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def replay_files(self) -> Path:
        """Folder of the replay's arrays."""
        return self.folder / REPLAY

    def due(self) -> bool:
        """Whether it is time for the next save.

        A process that has gone on from an earlier one saves soon, then ever more rarely: a run
        that is killed every few seconds gets on, too.
        """
        pause = max(self.every, PAUSE * self.cost)
        if self.resumed_at is not None:
            pause = min(pause, max(FIRST_PAUSE, self.saved_at - self.resumed_at))
        return time.monotonic() - self.saved_at >= pause

    def save(self, state: Mapping[str, Any], before: Callable[[], None] = lambda: None) -> None:
        """Copy `state` now and write it in the background, after calling `before` there.

        Waits for an earlier save that is still being written.

        Raises:
            OSError: the earlier one failed.
            SnnRlError: `check` forbids it.
        """
        self.wait()
        self.check()
        began = time.monotonic()
        document, tensors = pack_state({"settings": self.settings, **state})
        copied = time.monotonic() - began

        def write() -> None:
            try:
                before()
                worked = time.thread_time()
                write_state(self.folder / STATE, document, tensors)
                self.cost = copied + time.thread_time() - worked
            except Exception as error:  # raised by wait, in the training's thread
                self._error = error

        self._thread = threading.Thread(target=write, name="save")
        self._thread.start()
        self.saved_at = time.monotonic()

    def wait(self) -> None:
        """Wait until the last save is on the disk. Raises OSError if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def load(self) -> dict[str, Any] | None:
        """The newest state, arrays as tensors; None without one.

        Raises CheckpointError if it is damaged, or saved under other settings.
        """
        path = self.folder / STATE
        if not path.exists():
            return None
        state = read_state(path)
        saved = state.pop("settings")
        if changed := sorted(k for k in self.settings if self.settings[k] != saved.get(k)):
            raise CheckpointError(
                f"the run's settings are not those that {path} was saved under (other "
                f"{', '.join(changed)}): put them back, or start a new run"
            )
        self.resumed_at = self.saved_at = time.monotonic()
        return state


def pack_state(state: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """`state` as a JSON-able document, and copies of its arrays and tensors by their path."""
    tensors: dict[str, Tensor] = {}
    return _pack(state, "state", tensors), tensors


def discard(folder: Path) -> None:
    """Remove what a Saver kept in `folder`, and the folder if nothing else is in it."""
    replay = folder / REPLAY
    if folder.is_symlink() or replay.is_symlink():  # which no run makes
        return
    for path in (folder / STATE, folder / UNFINISHED, *replay.glob("*")):
        with suppress(IsADirectoryError):
            path.unlink(missing_ok=True)
    for path in (replay, folder):
        with suppress(OSError):  # another's file is in it, or it is gone
            path.rmdir()


def write_state(path: Path, document: Any, tensors: dict[str, Tensor]) -> None:
    """Write what `pack_state` gave to one file, atomically and durably.

    Raises:
        OSError: it cannot be written; an earlier file is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(UNFINISHED)
    texts = {
        "state": json.dumps(document),
        "version": VERSION,
        MACHINE: json.dumps(bits_depend_on()),
    }
    try:
        temporary.unlink(missing_ok=True)
        save_file(
            tensors,
            temporary,
            {**texts, DIGEST: _digest(tensors, texts)},
        )
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except SafetensorError as error:  # how safetensors tells of a full disk
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """The state that was packed, its arrays as tensors.

    Raises:
        CheckpointError: the file is damaged or comes from a version that saved other things.
    """
    damaged = f"{path} is damaged: remove {path.parent} to train its stage from the start"
    if not path.is_file() or path.stat().st_size != _size_by_header(path):
        raise CheckpointError(damaged)
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(damaged) from error
    if metadata.get("version", VERSION) != VERSION:
        raise CheckpointError(
            f"{path} was saved by another version of snn-rl: finish the run with that one, or "
            "start a new one from its last finished stage"
        )
    if metadata.pop(DIGEST, "") != _digest(tensors, metadata):
        raise CheckpointError(damaged)
    found: dict[str, Any] = _unpack(json.loads(metadata["state"]), tensors)
    _tell_of_changes(path, json.loads(metadata[MACHINE]))
    return found


def _size_by_header(path: Path) -> int | None:
    """Bytes that a safetensors file says that it has, before all of it is mapped; None of others.

    It begins with the length of its header, which says where each tensor ends behind it.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, LARGEST_RECORDS))
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        return 8 + length + max((int(of["data_offsets"][1]) for of in header.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 of all that a state holds."""
    found = hashlib.sha256(json.dumps(dict(sorted(texts.items()))).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _tell_of_changes(path: Path, saved_on: Mapping[str, Any]) -> None:
    """Say where a resume cannot be exact, since another machine saved the state."""
    here = bits_depend_on()
    changed = [name for name in saved_on if saved_on[name] != here.get(name)]
    if changed:
        log.warning(
            "%s was saved on %s: the run goes on, but not bit for bit (other %s)",
            path,
            saved_on.get("processor"),
            ", ".join(changed).replace("_", " "),
        )


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": {key: _pack(v, f"{name}.{key}", tensors) for key, v in value.items()}}
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        return [_pack(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
    return {"value": value}


def _unpack(document: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(document, list):
        return [_unpack(value, tensors) for value in document]
    if "tensor" in document:
        return tensors[document["tensor"]]
    if "value" in document:
        return document["value"]
    return {key: _unpack(value, tensors) for key, value in document["items"].items()}
