"""Trains one stage on images: epochs, validation, the best weights kept, exact resume."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snn_rl.conversion.batch_norm import fold_batch_norm
from snn_rl.core.grid import snap
from snn_rl.core.network import Network
from snn_rl.core.operations import BatchNorm
from snn_rl.runs.resume import Saver
from snn_rl.vision.batches import Batches
from snn_rl.vision.config import AugmentConfig
from snn_rl.vision.data import Data
from snn_rl.vision.evaluation import evaluate
from snn_rl.vision.learner import Learner, Stopped
from snn_rl.vision.learning import set_dropout
from snn_rl.vision.monitor import Monitor, Progress
from snn_rl.vision.plan import StagePlan
from snn_rl.vision.process import Process


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
        self.learner = Learner(plan, network, process, monitor.should_stop)
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
        progress = self.updates / self.total_updates
        seed = self.batches.update_seed(self.epoch, self.done)
        seen = self.learner.update(images, labels, progress, seed)
        self.sums += torch.tensor(seen, dtype=torch.float64)
        self.done += 1

    def _finish_epoch(self) -> bool:
        """Validate the network as it would be saved, in training's precision; keep the best.

        False if the monitor asked to stop before: then the epoch is still to be finished.
        """
        progress = self._progress()
        self.process.share_buffers(self.learner.network)
        averaged = self.learner.averaged()
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
            learning_rate=self.learner.learning_rate,
            loss=loss / max(seen, 1),
            accuracy=correct / max(seen, 1),
            validation=self.last_accuracy,
        )

    def _result(self, interrupted: bool) -> Result:
        network = self.learner.averaged()
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
            "best": self.best or {},
            **self.learner.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a state that `state_dict` gave."""
        self.epoch, self.done = state["epoch"], state["done"]
        self.seconds, self.sums = state["seconds"], state["sums"]
        self.best_accuracy = state["best_accuracy"]
        self.last_accuracy = state["last_accuracy"]
        self.learner.load_state_dict(state)
        device = self.process.device
        self.best = {name: value.to(device) for name, value in state["best"].items()} or None


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
