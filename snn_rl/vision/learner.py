"""Moves a stage's weights: one update per batch, with all that an optimiser remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snn_rl.conversion.weight_pruning import apply_masks
from snn_rl.core.network import Network
from snn_rl.runs.optimizer import load_optimizer_state, optimizer_state
from snn_rl.vision.averaging import WeightAverage
from snn_rl.vision.evaluation import classify
from snn_rl.vision.learning import (
    loss_of,
    loss_scaler,
    make_optimizer,
    rate_factor,
    set_dropout,
    set_rate,
)
from snn_rl.vision.plan import StagePlan
from snn_rl.vision.process import Process


class Stopped(Exception):
    """An update was given up."""


class Seen(NamedTuple):
    """What an update saw: its images, those that were right before it, the sum of their losses."""

    images: int
    correct: int
    loss: float


class Learner:
    """Trains a network on batches.

    Args:
        network: trained in place, in this process's memory layout.
        should_stop: asked between two layers; an update that stops leaves all as it was.
    """

    def __init__(
        self, plan: StagePlan, network: Network, process: Process, should_stop: Callable[[], bool]
    ) -> None:
        self.plan, self.process, self.should_stop = plan, process, should_stop
        self.network = process.place(network)
        set_dropout(network, plan.config.dropout)
        self.optimizer = make_optimizer(network, plan.config)
        self.average = WeightAverage(self.network, plan.config.average)
        self.scaler = loss_scaler(process.precision, process.device)
        self.parallel = process.parallel(network)
        self.teacher = None
        if plan.teacher is not None and plan.config.distill > 0:
            self.teacher = process.place(plan.teacher.network.clone()).eval()

    @property
    def learning_rate(self) -> float:
        """Of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def averaged(self) -> Network:
        """A copy of the network that holds the running average of its weights."""
        return self.average.applied(self.network)

    def update(self, images: Tensor, labels: Tensor, progress: float, seed: int) -> Seen:
        """Learn from a batch.

        Args:
            images: uint8 [batch, channels, height, width].
            labels: int64 [batch], or shares of the classes [batch, classes].
            progress: 0 to 1, through the stage.
            seed: of what is drawn in the update.

        Raises:
            Stopped: stopping was asked for; nothing has changed.
            FloatingPointError: the loss is not finite.
        """
        statistics = [buffer.clone() for buffer in self.network.buffers()]
        try:
            return self._learn(images, labels, progress, seed)
        except Stopped:
            for buffer, before in zip(self.network.buffers(), statistics, strict=True):
                buffer.copy_(before)
            raise

    def _learn(self, images: Tensor, labels: Tensor, progress: float, seed: int) -> Seen:
        config = self.plan.config
        torch.manual_seed(seed)  # dropout
        set_rate(self.optimizer, rate_factor(config, progress))
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
        return Seen(count, correct, value * count)

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
            if self.should_stop():
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

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a state that `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
