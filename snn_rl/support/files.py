"""Reads files that another may have made: no pipe is waited for, and no size is believed."""

from __future__ import annotations

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
