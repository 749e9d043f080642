"""Trains one stage on images: epochs, validation, the best weights kept, exact resume.

All randomness of an update follows from the stage's seed, the epoch and the batch, so that a stage
that was interrupted goes on exactly as if it had not been.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_rl.conversion.batch_norm import fold_batch_norm
from snn_rl.conversion.weight_pruning import Masks, apply_masks
from snn_rl.core.grid import snap
from snn_rl.core.network import Network
from snn_rl.core.operations import BatchNorm
from snn_rl.errors import SnnRlError
from snn_rl.runs.resume import Saver, load_optimizer_state, optimizer_state
from snn_rl.vision.augment import alternating, augment
from snn_rl.vision.averaging import WeightAverage
from snn_rl.vision.config import AugmentConfig, StageConfig
from snn_rl.vision.data import Data, chunked
from snn_rl.vision.evaluation import classify, evaluate
from snn_rl.vision.learning import (
    loss_of,
    loss_scaler,
    make_optimizer,
    rate_factor,
    set_dropout,
    set_rate,
)
from snn_rl.vision.monitor import Monitor, Progress
from snn_rl.vision.process import Process


@dataclass(frozen=True)
class Stage:
    """What a stage trains and how."""

    name: str
    timesteps: int
    epochs: int
    config: StageConfig
    seed: int
    teacher: Network | None = None
    teacher_timesteps: int = 1
    masks: Masks = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A trained stage: the network to keep, snapped to its grid, and how it came about."""

    network: Network
    validation: float
    epochs: int
    updates: int
    seconds: float
    interrupted: bool


class StageTrainer:
    """Trains one stage: call `run` once.

    Args:
        network: trained in place, in this process's memory layout.
        saver: keeps the stage's state, and holds it where the stage is to be resumed.
    """

    def __init__(
        self,
        stage: Stage,
        network: Network,
        data: Data,
        augmentation: AugmentConfig,
        process: Process,
        monitor: Monitor,
        saver: Saver,
    ) -> None:
        self.stage, self.data, self.augmentation = stage, data, augmentation
        self.process, self.monitor, self.saver = process, monitor, saver
        self.network = process.place(network)
        set_dropout(network, stage.config.dropout)
        self.optimizer = make_optimizer(network, stage.config)
        self.average = WeightAverage(self.network, stage.config.average)
        self.scaler = loss_scaler(process.precision, process.device)
        self.parallel = process.parallel(network)
        self.teacher = None
        if stage.teacher is not None and stage.config.distill > 0:
            self.teacher = process.place(stage.teacher.clone()).eval()
        total = len(data.train.labels)
        self.batch = min(stage.config.batch, total)
        self.per_epoch = total // self.batch  # the rest of an epoch's images waits for the next
        if self.batch < process.world:
            raise SnnRlError(f"a batch of {self.batch} cannot be shared by {process.world}")
        self.epoch = self.done = 0  # finished epochs, finished updates of the current one
        self.seconds = 0.0
        self.best: dict[str, Tensor] | None = None
        self.best_accuracy = -1.0
        self.last_accuracy: float | None = None
        self.sums = torch.zeros(3, dtype=torch.float64)  # images, correct, loss: of this epoch

    def run(self) -> Result:
        """Train until the epochs are used up or the monitor asks to stop.

        Raises:
            FloatingPointError: the loss is not finite.
            OSError: the state cannot be saved.
        """
        self._resume()
        try:
            stopped = self._train()
        finally:
            self.saver.wait()
        return self._result(stopped)

    def _train(self) -> bool:
        """Train until the epochs are used up; True if the monitor asked to stop before."""
        began, before = time.monotonic(), self.seconds
        while self.epoch < self.stage.epochs:
            for images, labels, indices in self._batches():
                self._update(self._augmented(images, indices), labels)
                self.seconds = before + time.monotonic() - began
                self.monitor.progress(self._progress())
                if self.process.any(self.monitor.should_stop()):
                    self._save()
                    return True
                if self.saver.due():
                    self._save()
            if self.done == self.per_epoch:
                self._finish_epoch()
        return False

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """This process's images, labels and their places, of the epoch's batches still to come."""
        seed = derived_seed(self.stage.seed, self.epoch)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.data.train.labels), generator=generator)
        chunks = chunked(order, self.batch)[self.done : self.per_epoch]
        shares = [self.process.share(chunk) for chunk in chunks]
        device = self.process.device
        for share, (images, labels) in zip(
            shares, self.data.train.batches(shares, seed), strict=True
        ):
            images = images.to(device, non_blocking=True)
            yield images, labels.to(device, non_blocking=True), share

    def _augmented(self, images: Tensor, indices: Tensor) -> Tensor:
        changes, flip = self.augmentation, self.augmentation.flip
        total = len(self.data.train.labels)
        return augment(
            images,
            torch.Generator().manual_seed(self._update_seed()),
            crop=changes.crop,
            border=changes.border,
            flip=alternating(indices, self.stage.seed, self.epoch, total)
            if flip == "alternating"
            else flip == "random",
            cutout=changes.cutout,
        )

    def _update_seed(self) -> int:
        return derived_seed(self.stage.seed, self.epoch, self.done, self.process.rank)

    def _update(self, images: Tensor, labels: Tensor) -> None:
        config, index = self.stage.config, self.epoch * self.per_epoch + self.done
        torch.manual_seed(self._update_seed())  # dropout
        set_rate(self.optimizer, rate_factor(config, index / (self.stage.epochs * self.per_epoch)))
        self.network.train()
        with self.process.autocast():
            targets = self._teacher_logits(images)
            logits = self._logits(images)
            loss = loss_of(logits.float(), labels, targets, config)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if config.max_grad_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.network.constrain()
        apply_masks(self.network, self.stage.masks)
        self.average.update(self.network)
        value, count = float(loss.detach()), len(labels)
        if not np.isfinite(value):
            raise FloatingPointError(
                f"stage {self.stage.name}: the loss is not finite; lower its learning_rate"
            )
        correct = int((logits.detach().argmax(1) == labels).sum())
        self.sums += torch.tensor([count, correct, value * count], dtype=torch.float64)
        self.done += 1

    def _logits(self, images: Tensor) -> Tensor:
        state = self.network.initial_state(len(images))
        output, _ = self.parallel(
            images[None], state, timesteps=self.stage.timesteps, carry_membrane=False
        )
        logits: Tensor = output[0]
        return logits

    def _teacher_logits(self, images: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            return classify(self.teacher, images, self.stage.teacher_timesteps).float()

    def _finish_epoch(self) -> None:
        """Validate the network as it would be saved, in training's precision; keep the best."""
        progress = self._progress()
        self.process.share_buffers(self.network)
        averaged = self.average.applied(self.network)
        steps = self.stage.timesteps
        found = evaluate(
            deployed(averaged, steps), self.data.validation, steps, self.process, mixed=True
        )
        self.epoch, self.done = self.epoch + 1, 0
        self.sums.zero_()
        self.last_accuracy = found.accuracy
        if found.accuracy >= self.best_accuracy:
            self.best_accuracy = found.accuracy
            self.best = {k: v.detach().clone() for k, v in averaged.state_dict().items()}
        self.monitor.validated(progress, found)

    def _progress(self) -> Progress:
        seen, correct, loss = self.sums.tolist()
        updates = self.epoch * self.per_epoch + self.done
        return Progress(
            stage=self.stage.name,
            epoch=self.epoch + 1,
            epochs=self.stage.epochs,
            images=updates * self.batch,
            total_images=self.stage.epochs * self.per_epoch * self.batch,
            seconds=self.seconds,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            loss=loss / max(seen, 1),
            accuracy=correct / max(seen, 1),
            validation=self.last_accuracy,
        )

    def _result(self, interrupted: bool) -> Result:
        network = self.average.applied(self.network)
        if self.best is not None:
            network.load_state_dict(self.best)
        network = deployed(network, self.stage.timesteps)
        accuracy = self.best_accuracy
        # What is saved runs in float32, and is scored once more where training did not.
        if self.best is None or self.process.precision != torch.float32:
            accuracy = evaluate(
                network, self.data.validation, self.stage.timesteps, self.process
            ).accuracy
        return Result(
            network=network,
            validation=accuracy,
            epochs=self.epoch,
            updates=self.epoch * self.per_epoch + self.done,
            seconds=self.seconds,
            interrupted=interrupted,
        )

    def _save(self) -> None:
        if self.process.leads:
            self.saver.save({"stage": self.stage.name, **self.state_dict()})

    def _resume(self) -> None:
        state = self.saver.load()
        if state is not None and state["stage"] == self.stage.name:
            self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training."""
        return {
            "epoch": self.epoch,
            "done": self.done,
            "seconds": self.seconds,
            "best_accuracy": self.best_accuracy,
            "last_accuracy": self.last_accuracy,
            "sums": self.sums,
            "network": self.network.state_dict(),
            "best": self.best or {},
            "average": self.average.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a state that `state_dict` gave."""
        self.epoch, self.done = state["epoch"], state["done"]
        self.seconds, self.sums = state["seconds"], state["sums"]
        self.best_accuracy = state["best_accuracy"]
        self.last_accuracy = state["last_accuracy"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        device = self.process.device
        self.best = {name: value.to(device) for name, value in state["best"].items()} or None
        load_optimizer_state(self.optimizer, state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def deployed(network: Network, timesteps: int) -> Network:
    """The network as it is saved and scored: a copy on its weight grid.

    A spiking network's batch-norm (binary networks trained as such) is folded; an ANN keeps its.
    """
    copy = network.clone().eval()
    if copy.spiking and any(isinstance(node.operation, BatchNorm) for node in copy.nodes):
        copy = fold_batch_norm(copy)
    set_dropout(copy, 0.0)
    snap(copy, timesteps)
    return copy


def derived_seed(*parts: int) -> int:
    """A seed of 63 bits that follows from all parts."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
