"""What every data set offers: labelled uint8 images in batches, split into three parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from snn_rl.errors import SnnRlError
from snn_rl.vision.models import Shape

Batch = tuple[Tensor, Tensor]
"""Images uint8 [batch, channels, height, width], RGB, and labels int64 [batch]."""


class Source(Protocol):
    """Labelled images."""

    @property
    def labels(self) -> Tensor:
        """int64 [images]."""

    def batches(self, chunks: Sequence[Tensor], seed: int | None = None) -> Iterator[Batch]:
        """One batch per chunk of indices; `seed` makes training's random crops, None none."""

    def subset(self, indices: Tensor) -> Source:
        """The images at `indices`, in that order."""


@dataclass(frozen=True)
class Arrays:
    """Images in memory: uint8 [images, channels, height, width] and int64 [images]."""

    images: Tensor
    labels: Tensor

    def batches(self, chunks: Sequence[Tensor], seed: int | None = None) -> Iterator[Batch]:
        """One batch per chunk of indices."""
        for chunk in chunks:
            yield self.images[chunk], self.labels[chunk]

    def subset(self, indices: Tensor) -> Arrays:
        """The images at `indices`, in that order."""
        return Arrays(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Data:
    """A data set: what is trained on, what chooses the weights, what scores.

    `validation` is held out from the official training images; `test` is the official test or
    validation set and takes no part in training.
    """

    name: str
    classes: tuple[str, ...]
    shape: Shape
    train: Source
    validation: Source
    test: Source


def hold_out(source: Source, count: int | float, limit: int | None = None) -> tuple[Source, Source]:
    """Training and validation part of `source`.

    The held-out images are the data set's, whatever a run's seed: an ANN that another run trained
    has not seen those that choose the weights of a network converted from it.

    Args:
        count: how many, or a share below 1.
        limit: keep so many training images only; they are the same for every `count`.

    Raises:
        SnnRlError: too few images.
    """
    total = len(source.labels)
    count = int(count) if count >= 1 else max(1, round(count * total))
    if not 0 < count < total:
        raise SnnRlError(
            f"cannot hold out {count} of {total} training images for validation: "
            "--set validation=N holds out fewer"
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    kept = order[count:] if limit is None else order[max(count, total - limit) :]
    return source.subset(kept), source.subset(order[:count])


def chunked(order: Tensor, batch: int) -> list[Tensor]:
    """Indices in chunks of `batch`; the last one may be smaller."""
    return list(torch.split(order, batch))
