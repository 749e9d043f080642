"""A run's folder has one owner at a time: the process that trains in it.

The folder is locked while its owner lives; the system frees the lock of a process that dies in
whatever way. Every take-over raises a generation number, which each save checks, so that a
process that lost its folder (a machine that was cut off and came back) writes no more.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from snn_rl.errors import SnnRlError
from snn_rl.runs.checkpoint import remove, write_text
from snn_rl.support.files import read_text

LOCK, OWNER = "owner.lock", "owner.json"
_WRITING = re.compile(
    r"\.(owner\.json|config\.yaml|evaluation\.json|sweep\.json|report\.md|metrics\.jsonl)\.\d+"
    r"|figures/\.\w+\.png\.\d+|(teacher|ann|T\d+[\w-]*)/\.agent\.json\.\d+"
)
_SAVING = re.compile(r"\.(teacher|ann|T\d+[\w-]*)-[a-z0-9_]{8}")
_REPLACED = re.compile(r"\.(teacher|ann|T\d+[\w-]*)\.old")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class InUse(SnnRlError):
    """Another process trains in the folder."""


@dataclass(frozen=True)
class Owner:
    """Who trains in a folder. `boot` tells apart equal process numbers before and after a restart
    of the machine; `generation` counts the folder's owners, from 1."""

    folder: Path
    host: str
    process: int
    boot: str
    generation: int

    def check(self) -> None:
        """Called before anything is written.

        Raises:
            SnnRlError: another process has taken the folder over.
        """
        now = _read(self.folder)
        if now != self:
            raise SnnRlError(
                f"{self.folder} was taken over by {_name(now)}: this process writes no more to it"
            )


@contextmanager
def own(folder: Path) -> Iterator[Owner]:
    """Be the owner of `folder`, which is made where it is missing.

    Raises:
        InUse: another process trains in it.
        OSError: it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise InUse(f"{folder} is being trained by {_name(_read(folder))}") from None
    try:
        yield _take_over(folder)
    finally:
        lock.release()


def make_folder(parent: Path) -> Path:
    """A fresh folder named by the time; no two processes get the same one.

    Raises:
        OSError: it cannot be made.
    """
    stamp, count = time.strftime("%Y%m%d-%H%M%S"), 0
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / (f"{stamp}-{count}" if count else stamp)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            count += 1


def remove_if_empty(folder: Path, top: Path) -> None:
    """Remove the folder of a run that was refused at once, and those above it that this leaves
    empty, up to `top`, the highest that may go."""
    for made in (folder, *folder.parents):
        if not made.is_relative_to(top):
            break
        try:
            made.rmdir()
        except OSError:  # something is in it
            break


def foreign(folder: Path) -> list[str]:
    """Files that an owner would write over and that no owner wrote."""
    lock = folder / LOCK  # which is always empty
    found = [OWNER] if os.path.lexists(folder / OWNER) and not _read(folder) else []
    return found + [LOCK] * (lock.is_symlink() or (lock.exists() and lock.stat().st_size > 0))


def _take_over(folder: Path) -> Owner:
    if (folder / OWNER).is_file():  # else no run was here, and whatever is here is another's
        _remove_leftovers(folder)
    before = _read(folder)
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    generation = before.generation + 1 if before else 1
    owner = Owner(folder, socket.gethostname(), os.getpid(), boot, generation)
    document = asdict(owner)
    del document["folder"]
    write_text(folder / OWNER, json.dumps(document))
    return owner


def _remove_leftovers(folder: Path) -> None:
    """Remove what saves that were killed left half-written: names that saves give, nothing else."""
    for path in (*folder.glob(".*"), *folder.glob("*/.*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or path.parent.is_symlink():
            continue
        if path.is_file() and _WRITING.fullmatch(name):
            path.unlink()
        elif path.is_dir() and (found := _REPLACED.fullmatch(name)):
            stage = path.with_name(found[1])
            if stage.exists():
                remove(path)
            else:
                path.rename(stage)  # the save died between its two renames
        elif path.is_dir() and _SAVING.fullmatch(name):
            remove(path)


def _read(folder: Path) -> Owner | None:
    """The newest owner that `folder` names, if it names one."""
    try:
        return Owner(folder=folder, **json.loads(read_text(folder / OWNER)))
    except (OSError, ValueError, TypeError):
        return None


def _name(owner: Owner | None) -> str:
    return f"process {owner.process} on {owner.host}" if owner else "another process"
