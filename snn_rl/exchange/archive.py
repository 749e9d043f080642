"""Reads foreign archives: sizes are bounded and nothing in them is executed."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_rl.errors import SnnRlError

MEMBERS, WEIGHTS_LIMIT = 256, 512 * 2**20
SAFE_TORCH = (2, 10)
"""Older releases can be made to execute code even with weights_only=True (CVE-2025-32434,
CVE-2026-24747)."""


def read_member(path: Path, name: str, limit: int) -> bytes:
    """One member of a zip.

    Raises:
        SnnRlError: no zip, no such member, damaged, or larger than `limit` bytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > MEMBERS:
                raise SnnRlError(f"{path} holds more than {MEMBERS} files: it is no saved agent")
            with archive.open(name) as member:
                content = member.read(limit + 1)  # sizes in a zip's directory may lie
    except FileNotFoundError:
        raise SnnRlError(f"there is no file {path}") from None
    except KeyError:
        raise SnnRlError(
            f"{path} holds no {name}: it is cut off, or Stable-Baselines3's model.save() did not "
            "write it"
        ) from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, SnnRlError):
            raise
        raise SnnRlError(f"{path} is damaged or no zip file ({_short(error)})") from None
    except Exception as error:  # zlib and its relatives have errors of their own
        raise SnnRlError(f"{path} is damaged ({_short(error)})") from None
    if len(content) > limit:
        raise SnnRlError(f"{name} in {path} unpacks to more than {limit >> 20} MiB: refused")
    return content


def read_state_dict(content: bytes, source: str) -> dict[str, Tensor]:
    """Tensors by name from the bytes of a `torch.save(module.state_dict(), ...)`.

    Raises:
        SnnRlError: torch is too old to read it safely, or it is no plain state dict.
    """
    if torch_release() < SAFE_TORCH:
        raise SnnRlError(
            f"torch {torch.__version__} may execute code hidden in {source}: install torch >= 2.10"
        )
    _check_stored(content, source)
    try:
        found: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise SnnRlError(
            f"{source} holds more than tensors and is not executed: save module.state_dict() alone"
        ) from None
    except Exception as error:  # a damaged file can fail in any way
        raise SnnRlError(f"{source} is damaged ({_short(error)})") from None
    plain = isinstance(found, Mapping) and found
    if not plain or not all(isinstance(k, str) and _dense(v) for k, v in found.items()):
        raise SnnRlError(f"{source} is no state dict: save module.state_dict() alone")
    return dict(found)


def torch_release() -> tuple[int, ...]:
    """Version of torch as numbers, e.g. (2, 13)."""
    return tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])


def _check_stored(content: bytes, source: str) -> None:
    """torch writes an uncompressed zip, so what it unpacks to is bounded by the file's own size.

    It does not look at the checksums when it reads: a flipped bit would be another weight.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            packed = any(m.compress_type != zipfile.ZIP_STORED for m in archive.infolist())
            damaged = None if packed else archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        raise SnnRlError(
            f"{source} is damaged or in torch's old format: load and torch.save() it anew"
        ) from None
    if packed:
        raise SnnRlError(f"{source} is compressed, which torch.save() never does: refused")
    if damaged is not None:
        raise SnnRlError(f"{source} is damaged (the checksum of {damaged!r} is another)")


def _dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
