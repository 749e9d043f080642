"""Trains one stage on images: epochs, validation, the best weights kept, exact resume."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_rl.conversion.batch_norm import fold_batch_norm
from snn_rl.conversion.temporal_pruning import Stage
from snn_rl.conversion.weight_pruning import Masks, apply_masks
from snn_rl.core.grid import snap
from snn_rl.core.network import Network
from snn_rl.core.operations import BatchNorm
from snn_rl.runs.resume import Saver, load_optimizer_state, optimizer_state
from snn_rl.vision.averaging import WeightAverage
from snn_rl.vision.batches import Batches
from snn_rl.vision.config import AugmentConfig, StageConfig
from snn_rl.vision.data import Data
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
class StagePlan:
    """How a stage is trained."""

    name: str
    timesteps: int
    epochs: int
    config: StageConfig
    seed: int
    teacher: Stage | None = None
    """whose logits it distils"""
    masks: Masks = field(default_factory=dict)
    """weights that stay"""


@dataclass(frozen=True)
class Result:
    """A trained stage: the network to keep, snapped to its grid, and how it came about."""

    network: Network
    validation: float | None
    """accuracy, 0 to 1; None of a stage that was interrupted before its first validation"""
    epochs: int
    updates: int
    seconds: float
    interrupted: bool


class Stopped(Exception):
    """An update was given up."""


class StageTrainer:
    """Trains one stage: call `run` once.

    Args:
        network: trained in place, in this process's memory layout.
        saver: keeps the stage's state, and holds it where the stage is to be resumed.
    """

    def __init__(
        self,
        plan: StagePlan,
        network: Network,
        data: Data,
        augmentation: AugmentConfig,
        process: Process,
        monitor: Monitor,
        saver: Saver,
    ) -> None:
        self.plan, self.data, self.process = plan, data, process
        self.monitor, self.saver = monitor, saver
        self.network = process.place(network)
        set_dropout(network, plan.config.dropout)
        self.optimizer = make_optimizer(network, plan.config)
        self.average = WeightAverage(self.network, plan.config.average)
        self.scaler = loss_scaler(process.precision, process.device)
        self.parallel = process.parallel(network)
        self.teacher = None
        if plan.teacher is not None and plan.config.distill > 0:
            self.teacher = process.place(plan.teacher.network.clone()).eval()
        self.batches = Batches(data, augmentation, process, plan.seed, plan.config.batch)
        self.epoch = self.done = 0  # finished epochs, finished updates of the current one
        self.seconds = 0.0
        self.best: dict[str, Tensor] | None = None
        self.best_accuracy = -1.0
        self.last_accuracy: float | None = None
        self.sums = torch.zeros(3, dtype=torch.float64)  # images, correct, loss: of this epoch

    @property
    def updates(self) -> int:
        """That are made."""
        return self.epoch * self.batches.per_epoch + self.done

    @property
    def total_updates(self) -> int:
        """Of the whole stage."""
        return self.plan.epochs * self.batches.per_epoch

    def run(self) -> Result:
        """Train until the epochs are used up or the monitor asks to stop.

        Raises:
            FloatingPointError: the loss is not finite.
            OSError: the state cannot be saved.
        """
        self._resume()
        try:
            return self._result(self._train())
        finally:
            self.saver.wait()

    def _train(self) -> bool:
        """Train until the epochs are used up; True if the monitor asked to stop before."""
        began, before = time.monotonic(), self.seconds
        while self.epoch < self.plan.epochs:
            for images, labels in self.batches.of_epoch(self.epoch, self.done):
                try:
                    self._update(images, labels)
                except Stopped:
                    self._save()
                    return True
                self.seconds = before + time.monotonic() - began
                self.monitor.progress(self._progress())
                if self.process.any(self.monitor.should_stop()):
                    self._save()
                    return True
                if self.saver.due():
                    self._save()
            if self.done == self.batches.per_epoch and not self._finish_epoch():
                self._save()
                return True
        return False

    def _update(self, images: Tensor, labels: Tensor) -> None:
        """Learn from a batch. Raises Stopped, all as it was before, if the monitor asks to stop."""
        statistics = [buffer.clone() for buffer in self.network.buffers()]
        try:
            self._learn(images, labels)
        except Stopped:
            for buffer, before in zip(self.network.buffers(), statistics, strict=True):
                buffer.copy_(before)
            raise

    def _learn(self, images: Tensor, labels: Tensor) -> None:
        config = self.plan.config
        torch.manual_seed(self.batches.update_seed(self.epoch, self.done))  # dropout
        set_rate(self.optimizer, rate_factor(config, self.updates / self.total_updates))
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
        apply_masks(self.network, self.plan.masks)
        self.average.update(self.network)
        value, count = float(loss.detach()), len(labels)
        if not np.isfinite(value):
            raise FloatingPointError(
                f"stage {self.plan.name}: the loss is not finite; lower its learning_rate"
            )
        likeliest = labels if labels.dim() == 1 else labels.argmax(1)
        correct = int((logits.detach().argmax(1) == likeliest).sum())
        self.sums += torch.tensor([count, correct, value * count], dtype=torch.float64)
        self.done += 1

    def _logits(self, images: Tensor) -> Tensor:
        state = self.network.initial_state(len(images))
        output, _ = self.parallel(
            images[None],
            state,
            timesteps=self.plan.timesteps,
            carry_membrane=False,
            on_value=self._heed,
        )
        logits: Tensor = output[0]
        return logits

    def _heed(self, _: str, value: Tensor) -> None:
        """Between two layers, forward and backward: an update of a large network takes minutes.
        Several processes finish theirs, since each waits for the others."""

        def stop(_: Tensor | None = None) -> None:
            if self.monitor.should_stop():
                raise Stopped

        if self.process.world == 1:
            stop()
            if value.requires_grad:
                value.register_hook(stop)  # type: ignore[no-untyped-call]

    def _teacher_logits(self, images: Tensor) -> Tensor | None:
        if self.teacher is None or self.plan.teacher is None:
            return None
        with torch.no_grad():
            return classify(self.teacher, images, self.plan.teacher.timesteps).float()

    def _finish_epoch(self) -> bool:
        """Validate the network as it would be saved, in training's precision; keep the best.

        False if the monitor asked to stop before: then the epoch is still to be finished.
        """
        progress = self._progress()
        self.process.share_buffers(self.network)
        averaged = self.average.applied(self.network)
        steps = self.plan.timesteps
        validation = self.data.validation
        found = evaluate(
            deployed(averaged, steps),
            validation,
            steps,
            self.process,
            mixed=True,
            stopped=self.monitor.should_stop,
        )
        if found.images < len(validation.labels):
            return False
        self.epoch, self.done = self.epoch + 1, 0
        self.sums.zero_()
        self.last_accuracy = found.accuracy
        if found.accuracy >= self.best_accuracy:
            self.best_accuracy = found.accuracy
            self.best = {k: v.detach().clone() for k, v in averaged.state_dict().items()}
        self.monitor.validated(progress, found)
        return True

    def _progress(self) -> Progress:
        seen, correct, loss = self.sums.tolist()
        return Progress(
            stage=self.plan.name,
            epoch=self.epoch + 1,
            epochs=self.plan.epochs,
            images=self.updates * self.batches.size,
            total_images=self.total_updates * self.batches.size,
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
        network = deployed(network, self.plan.timesteps)
        accuracy = None if self.best is None else self.best_accuracy
        # What is saved runs in float32, and is scored once more where training did not.
        exact = self.best is not None and self.process.precision == torch.float32
        if not (exact or interrupted):
            validation, stopped = self.data.validation, self.monitor.should_stop
            found = evaluate(
                network, validation, self.plan.timesteps, self.process, stopped=stopped
            )
            if found.images == len(validation.labels):
                accuracy = found.accuracy
            else:  # all that is left to a resumed one
                interrupted = True
                self._save()
        return Result(
            network=network,
            validation=accuracy,
            epochs=self.epoch,
            updates=self.updates,
            seconds=self.seconds,
            interrupted=interrupted,
        )

    def _save(self) -> None:
        if self.process.leads:
            self.saver.save({"stage": self.plan.name, **self.state_dict()})

    def _resume(self) -> None:
        state = self.saver.load()
        if state is not None and state["stage"] == self.plan.name:
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
