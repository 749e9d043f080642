"""Image files in folders: Tiny-ImageNet, ImageNet, and any tree with one folder per class.

Files are decoded with OpenCV in worker processes. The random numbers of an image follow from the
seed of the epoch and the image's index, so that neither the number of workers nor an interruption
changes them.
"""

from __future__ import annotations

import csv
import logging
import math
import mimetypes
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from snn_rl.errors import SnnRlError
from snn_rl.vision.data import Batch

log = logging.getLogger(__name__)

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Files:
    """Labelled image files.

    Attributes:
        paths: one per image.
        size: side of the square images that are returned.
        scale: share of the area that a random crop covers in training (Szegedy et al. 2015, with
            an aspect ratio of 3/4 to 4/3); None takes training images as they are tested.
        shorter: length of the shorter side before the centre crop of testing.
        workers: processes that decode; 0 decodes in this one.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    size: int
    scale: tuple[float, float] | None = None
    shorter: int | None = None
    workers: int = 0

    def batches(self, chunks: Sequence[Tensor], seed: int | None = None) -> Iterator[Batch]:
        """One batch per chunk of indices, random crops by `seed`.

        Raises:
            SnnRlError: names a file that cannot be decoded.
        """
        loader: DataLoader[Any] = DataLoader(
            _Decoder(self, seed),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=min(self.workers, len(chunks)),
            collate_fn=_collate,
            worker_init_fn=_one_thread,
            multiprocessing_context=_fresh_processes() if self.workers else None,
        )
        for images, labels, problem in loader:
            if problem:
                raise SnnRlError(problem)
            yield images, labels

    def subset(self, indices: Tensor) -> Files:
        """The images at `indices`, in that order."""
        chosen = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, paths=chosen, labels=self.labels[indices])


def _fresh_processes() -> BaseContext:
    """Workers that do not copy this process: OpenCV's threads would hang in a forked copy."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once for all workers
    return context


class _Decoder(Dataset[tuple[Tensor, int, str]]):
    """Decodes one file; a problem travels as text, so that its message survives the worker."""

    def __init__(self, files: Files, seed: int | None) -> None:
        self.files, self.seed = files, seed

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        files = self.files
        path, label = files.paths[index], int(files.labels[index])
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            problem = f"{path} is missing or no image that can be decoded"
            return torch.zeros(3, files.size, files.size, dtype=torch.uint8), label, problem
        rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        if self.seed is not None and files.scale is not None:
            draw = np.random.default_rng([self.seed, index])
            cut = random_resized_crop(rgb, files.size, files.scale, draw)
        else:
            cut = centre_crop(rgb, files.size, files.shorter or files.size)
        return torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 0, 1))), label, ""


def random_resized_crop(
    image: Image, size: int, scale: tuple[float, float], draw: np.random.Generator
) -> Image:
    """A random part of `image` [height, width, 3], resized to `size` x `size`.

    Ten tries at an area within `scale` and an aspect ratio within 3/4 to 4/3; else the centre.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * draw.uniform(*scale)
        ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = draw.integers(height - h + 1), draw.integers(width - w + 1)
            return _resized(image[top : top + h, left : left + w], size, size)
    return centre_crop(image, size, size)


def centre_crop(image: Image, size: int, shorter: int) -> Image:
    """The central `size` x `size` of `image`, resized so that its shorter side is `shorter`."""
    height, width = image.shape[:2]
    factor = shorter / min(height, width)
    height, width = max(size, round(height * factor)), max(size, round(width * factor))
    image = _resized(image, height, width)
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def load_tree(root: Path) -> tuple[tuple[Path, ...], Tensor, tuple[str, ...]]:
    """Files, labels and class names of a folder with one sub-folder per class.

    Images may lie deeper (Tiny-ImageNet has class/images/...). Classes are in order of their names.

    Raises:
        SnnRlError: there is no such tree.
    """
    folders = sorted(f for f in root.iterdir() if f.is_dir()) if root.is_dir() else []
    if not folders:
        raise SnnRlError(f"{root} holds no images: expected one folder per class, e.g. cat/1.png")
    paths: list[Path] = []
    labels: list[int] = []
    skipped: list[Path] = []
    for label, folder in enumerate(folders):
        files = sorted(f for f in folder.rglob("[!.]*") if f.is_file())
        found = [f for f in files if f.suffix.lower() in SUFFIXES]
        skipped += [f for f in files if f.suffix.lower() not in SUFFIXES and _is_image(f)]
        if not found:
            raise SnnRlError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    if skipped:
        log.warning("%d files are of a kind that is not read, e.g. %s", len(skipped), skipped[0])
    return tuple(paths), torch.tensor(labels), tuple(folder.name for folder in folders)


def _is_image(path: Path) -> bool:
    return (mimetypes.guess_type(path.name)[0] or "").startswith("image/")


def load_tiny_imagenet(root: Path) -> tuple[Files, Files, tuple[str, ...]]:
    """Tiny-ImageNet's training images and its validation images, which are the test set.

    Raises:
        SnnRlError: names what is missing, and the layout that is expected.
    """
    root = _inner(root, "tiny-imagenet-200")
    table = root / "val" / "val_annotations.txt"
    if not table.is_file():
        raise SnnRlError(
            f"{table} is missing: tiny-imagenet-200/ holds train/CLASS/images/*.JPEG, val/images/"
            "*.JPEG and val/val_annotations.txt"
        )
    paths, labels, classes = load_tree(root / "train")
    rows = [line.split("\t")[:2] for line in _text(table).splitlines() if line.strip()]
    test, test_labels = _labelled(rows, root / "val" / "images", classes, table)
    return Files(paths, labels, 64), Files(test, test_labels, 64), classes


def load_imagenet(root: Path, size: int) -> tuple[Files, Files, tuple[str, ...]]:
    """ImageNet's (ILSVRC 2012) training images and its validation images, which are the test set.

    The validation images lie in one folder per class, or flat beside LOC_val_solution.csv.

    Raises:
        SnnRlError: names what is missing, and the layout that is expected.
    """
    inner = root / "ILSVRC" / "Data" / "CLS-LOC"
    folder = inner if inner.is_dir() else root
    if not (folder / "train").is_dir() or not (folder / "val").is_dir():
        raise SnnRlError(
            f"{folder} lacks train/ or val/: expected train/CLASS/*.JPEG and val/CLASS/*.JPEG, or "
            "val/*.JPEG with LOC_val_solution.csv"
        )
    paths, labels, classes = load_tree(folder / "train")
    table = root / "LOC_val_solution.csv"
    if any(entry.is_dir() for entry in (folder / "val").iterdir()):
        test, test_labels = _tree_of(folder / "val", classes)
    elif table.is_file():
        rows = [
            [f"{row['ImageId']}.JPEG", row["PredictionString"].split()[0]]
            for row in csv.DictReader(_text(table).splitlines())
            if row.get("ImageId") and row.get("PredictionString")
        ]
        test, test_labels = _labelled(rows, folder / "val", classes, table)
    else:
        raise SnnRlError(f"{table} is missing: it names the class of every image in val/")
    return *_as_files(paths, labels, test, test_labels, size), classes


def load_folder(root: Path, size: int) -> tuple[Files, Files, tuple[str, ...]]:
    """Any data set as train/CLASS/* and test/CLASS/*. Raises SnnRlError if it is not one."""
    paths, labels, classes = load_tree(root / "train")
    test, test_labels = _tree_of(root / "test", classes)
    return *_as_files(paths, labels, test, test_labels, size), classes


def _as_files(
    paths: tuple[Path, ...], labels: Tensor, test: tuple[Path, ...], test_labels: Tensor, size: int
) -> tuple[Files, Files]:
    shorter = round(size * 256 / 224)  # the usual margin around a central crop of 224
    return Files(paths, labels, size, shorter=shorter), Files(
        test, test_labels, size, shorter=shorter
    )


def _tree_of(root: Path, classes: tuple[str, ...]) -> tuple[tuple[Path, ...], Tensor]:
    paths, labels, names = load_tree(root)
    if names != classes:
        odd = sorted(set(names) ^ set(classes))
        raise SnnRlError(f"{root} and the training images differ in their classes: {odd[:5]}")
    return paths, labels


def _labelled(
    rows: Sequence[Sequence[str]], folder: Path, classes: tuple[str, ...], table: Path
) -> tuple[tuple[Path, ...], Tensor]:
    """Files and labels from rows of (file name, class name)."""
    number: Mapping[str, int] = {name: label for label, name in enumerate(classes)}
    for row in rows:
        if len(row) != 2 or row[1] not in number:
            raise SnnRlError(f"{table} is damaged: {' '.join(row)[:60]!r} names no known class")
    if not rows:
        raise SnnRlError(f"{table} is damaged: it names no image")
    paths = tuple(folder / name for name, _ in rows)
    return paths, torch.tensor([number[name] for _, name in rows])


def _collate(items: list[tuple[Tensor, int, str]]) -> tuple[Tensor, Tensor, str]:
    images, labels, problems = zip(*items, strict=True)
    return torch.stack(images), torch.tensor(labels), next((p for p in problems if p), "")


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)


def _resized(image: Image, height: int, width: int) -> Image:
    shrinks = image.shape[0] > height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def _inner(root: Path, name: str) -> Path:
    return root / name if (root / name).is_dir() else root


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise SnnRlError(f"{path} is damaged: it cannot be read as text") from None
