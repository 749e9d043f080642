"""Reads files that another may have made: no pipe is waited for, and no size is believed."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from snn_rl.errors import SnnRlError

LARGEST = 2**24
"""Bytes of settings and the like."""
LARGEST_RECORDS = 2**30
"""Bytes of a run's records."""


def read_text(path: Path, largest: int = LARGEST) -> str:
    """Text of a file.

    Raises:
        SnnRlError: it cannot be read, is too large, or is something else than a file of text.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise SnnRlError(f"{path} is damaged: it is no file")
        if size > largest:
            raise SnnRlError(f"{path} is damaged: it has {size} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SnnRlError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SnnRlError(f"{path} is damaged: it is no text") from None


def temporary(path: Path, suffix: str = "") -> Path:
    """A name beside `path` to write under before it is renamed; ends in this process's number and
    `suffix`. What processes that were killed left under such names is removed."""
    name = path.name.removesuffix(suffix) if suffix else path.name
    for left in path.parent.glob(f".{glob.escape(name)}.*{suffix}"):
        number = left.name.removesuffix(suffix).rpartition(".")[2]
        if number.isdecimal() and left.is_file() and not _alive(int(number)):
            left.unlink(missing_ok=True)
    return path.with_name(f".{name}.{os.getpid()}{suffix}")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
