"""A stage's training images: in a new order every epoch, augmented, shared by the processes.

All randomness follows from the stage's seed, the epoch and the batch, so that a stage that was
interrupted goes on exactly as if it had not been.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from snn_rl.errors import SnnRlError
from snn_rl.vision.augment import alternating, augment, mixup
from snn_rl.vision.config import AugmentConfig
from snn_rl.vision.data import Batch, Data, chunked
from snn_rl.vision.process import Process


class Batches:
    """Batches of a stage.

    Args:
        seed: of the stage.
        size: images per batch, over all processes together; at most all there are.

    Attributes:
        per_epoch: batches of an epoch; the rest of its images waits for the next one.

    Raises:
        SnnRlError: a batch has fewer images than there are processes.
    """

    def __init__(
        self, data: Data, changes: AugmentConfig, process: Process, seed: int, size: int
    ) -> None:
        self.source, self.classes = data.train, len(data.classes)
        self.changes, self.process, self.seed = changes, process, seed
        self.size = min(size, len(self.source.labels))
        self.per_epoch = len(self.source.labels) // self.size
        if self.size < process.world:
            raise SnnRlError(f"a batch of {self.size} cannot be shared by {process.world}")

    def of_epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        """This process's images [batch, channels, height, width] and labels [batch], on its
        device, of the epoch's batches from number `first` on; with mixup, labels are shares of
        the classes [batch, classes]."""
        seed = derived_seed(self.seed, epoch)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.source.labels), generator=generator)
        chunks = chunked(order, self.size)[first : self.per_epoch]
        shares = [self.process.share(chunk) for chunk in chunks]
        device = self.process.device
        found = self.source.batches(shares, seed)
        for number, (share, (images, labels)) in enumerate(zip(shares, found, strict=True), first):
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            generator = torch.Generator().manual_seed(self.update_seed(epoch, number))
            images = self._augmented(images, share, epoch, generator)
            if self.changes.mixup:
                images, labels = mixup(images, labels, self.classes, self.changes.mixup, generator)
            yield images, labels

    def update_seed(self, epoch: int, number: int) -> int:
        """Of all else that is drawn in the update with a batch, in this process."""
        return derived_seed(self.seed, epoch, number, self.process.rank)

    def _augmented(
        self, images: Tensor, indices: Tensor, epoch: int, generator: torch.Generator
    ) -> Tensor:
        changes, flip = self.changes, self.changes.flip
        return augment(
            images,
            generator,
            crop=changes.crop,
            border=changes.border,
            flip=alternating(indices, self.seed, epoch, len(self.source.labels))
            if flip == "alternating"
            else flip == "random",
            cutout=changes.cutout,
        )


def derived_seed(*parts: int) -> int:
    """A seed of 63 bits that follows from all parts."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
