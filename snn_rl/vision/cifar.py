"""CIFAR-10 and CIFAR-100 from their official files, in the binary or the python version.

Binary (documented by the data set's authors): records of one label byte (CIFAR-100: a coarse and
a fine one), then 1024 red, 1024 green and 1024 blue bytes, row by row. The python version is a
pickle of plain data, read by an unpickler that knows NumPy's arrays and nothing else.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_rl.errors import SnnRlError
from snn_rl.vision.data import Arrays
from snn_rl.vision.models import Shape

SHAPE: Shape = (3, 32, 32)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """Where a version of the data set keeps what."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int = 1
    """of a binary record; the last one is the label"""
    label_key: str = "labels"
    names_key: str = "label_names"


CIFAR10_BINARY = Layout(
    "cifar-10-batches-bin",
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    ("test_batch.bin",),
    "batches.meta.txt",
)
CIFAR10_PYTHON = Layout(
    "cifar-10-batches-py",
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    ("test_batch",),
    "batches.meta",
)
CIFAR100_BINARY = Layout(
    "cifar-100-binary", ("train.bin",), ("test.bin",), "fine_label_names.txt", label_bytes=2
)
CIFAR100_PYTHON = Layout(
    "cifar-100-python",
    ("train",),
    ("test",),
    "meta",
    label_key="fine_labels",
    names_key="fine_label_names",
)


def load_cifar(root: Path, classes: int) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    """Training images, test images and class names of CIFAR-10 or CIFAR-100.

    Args:
        root: holds the folder that the official archive unpacks to, or is that folder.
        classes: 10 or 100.

    Raises:
        SnnRlError: names the file that is missing or damaged, and the layout that is expected.
    """
    versions = {
        10: (CIFAR10_BINARY, CIFAR10_PYTHON),
        100: (CIFAR100_BINARY, CIFAR100_PYTHON),
    }[classes]
    for layout in versions:
        for folder in (root / layout.folder, root):
            if (folder / layout.train[0]).is_file():
                return _load(folder, layout, classes)
    binary, python = versions
    raise SnnRlError(
        f"{root} holds no CIFAR-{classes}: expected {binary.folder}/ with {_listed(binary)} "
        f"(binary version) or {python.folder}/ with {_listed(python)} (python version)"
    )


def _load(folder: Path, layout: Layout, classes: int) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    read = _read_binary if layout.names.endswith(".txt") else _read_python
    train = _joined([read(_present(folder, n, layout), layout, classes) for n in layout.train])
    test = _joined([read(_present(folder, n, layout), layout, classes) for n in layout.test])
    names = _names(_present(folder, layout.names, layout), layout)
    if len(names) != classes:
        raise SnnRlError(f"{folder / layout.names} names {len(names)} classes, not {classes}")
    return train, test, names


def _read_binary(path: Path, layout: Layout, classes: int) -> Arrays:
    data = np.fromfile(path, dtype=np.uint8)
    record = layout.label_bytes + PIXELS
    if not data.size or data.size % record:
        raise _damaged(path, f"its {data.size} bytes are no whole number of {record}-byte records")
    records = data.reshape(-1, record)
    images = torch.from_numpy(records[:, layout.label_bytes :].copy())
    labels = torch.from_numpy(records[:, layout.label_bytes - 1].astype(np.int64))
    return _checked(path, images, labels, classes)


def _read_python(path: Path, layout: Layout, classes: int) -> Arrays:
    content = _unpickle(path)
    try:
        images, labels = content[b"data"], content[layout.label_key.encode()]
        images = torch.from_numpy(np.array(images, dtype=np.uint8).reshape(-1, PIXELS))
        labels = torch.tensor([int(label) for label in labels], dtype=torch.int64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _damaged(path, f"it holds no images and {layout.label_key}") from None
    return _checked(path, images, labels, classes)


def _checked(path: Path, images: Tensor, labels: Tensor, classes: int) -> Arrays:
    if len(images) != len(labels):
        raise _damaged(path, f"it holds {len(images)} images and {len(labels)} labels")
    if not len(labels) or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise _damaged(path, f"a label lies outside 0 to {classes - 1}")
    return Arrays(images.view(-1, *SHAPE), labels)


def _names(path: Path, layout: Layout) -> tuple[str, ...]:
    if path.suffix == ".txt":
        return tuple(path.read_text(encoding="ascii", errors="replace").split())
    names = _unpickle(path).get(layout.names_key.encode(), [])
    return tuple(n.decode("ascii", "replace") for n in names if isinstance(n, bytes))


class _Unpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain data; any other global is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """NumPy's array constructors alone."""
        if module == "_codecs" and name == "encode":
            return _latin1
        known = {
            "_reconstruct": np.zeros(0).__reduce__()[0],
            "ndarray": np.ndarray,
            "dtype": np.dtype,
        }
        if module.split(".")[0] != "numpy" or name not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[name]


def _latin1(text: str, encoding: str) -> bytes:
    """What pickles of Python 2 call to make bytes."""
    return text.encode("latin1")


def _unpickle(path: Path) -> dict[bytes, Any]:
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, " ".join(str(error).split())[:100]) from None
    if not isinstance(content, dict):
        raise _damaged(path, "it holds no dictionary")
    return {k.encode() if isinstance(k, str) else k: v for k, v in content.items()}


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return Arrays(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    )


def _present(folder: Path, name: str, layout: Layout) -> Path:
    path = folder / name
    if not path.is_file():
        raise SnnRlError(f"{path} is missing: {layout.folder}/ holds {_listed(layout)}")
    return path


def _listed(layout: Layout) -> str:
    return ", ".join((*layout.train, *layout.test, layout.names))


def _damaged(path: Path, reason: str) -> SnnRlError:
    return SnnRlError(f"{path} is damaged ({reason}): unpack the official archive again")
