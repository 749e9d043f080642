"""Q-learning and distillation on segments, the same for the ANN and every spiking stage.

Sources: (double) DQN (van Hasselt et al. 2016), n-step targets, distillation of Q-values by the
cross-entropy of softmax(Q / temperature) (Rusu et al. 2016), on frames the student visits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.dqn.execution import Execution
from snn_rl.agents.dqn.losses import distillation, mean_rate
from snn_rl.agents.dqn.replay import Segment
from snn_rl.agents.dqn.targets import Lesson, make_targets
from snn_rl.core.network import Network
from snn_rl.runs.optimizer import load_optimizer_state, optimizer_state

AT_ONCE = 4
"""Updates whose targets come from one pass of the target network: a sixth less time per frame."""


class Learner:
    """Updates a network from segments.

    Args:
        network: trained in place; `kept` is its running mean, or itself without averaging.
        config: loss weights, optimiser, target network.
        total_updates: length of the learning-rate schedule.
        timesteps, carry_membrane: how the network is run.
    """

    def __init__(
        self,
        network: Network,
        config: LearnerConfig,
        *,
        total_updates: int,
        timesteps: int = 1,
        carry_membrane: bool = True,
    ) -> None:
        self.network, self.config = network, config
        self.total_updates = max(1, total_updates)
        self.updates = 0
        # Only bootstrapping needs a target network.
        self.target = network.clone().eval().requires_grad_(False) if max(config.td) > 0 else None
        network.eval()
        self.kept = network.clone().eval() if config.average else network
        run = Execution(timesteps, carry_membrane, config.amp)
        self.targets = make_targets(network, self.target, config, run)
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, fused=True)

    @property
    def progress(self) -> float:
        """Fraction of the schedule that is done, 0 to 1."""
        return min(1.0, self.updates / self.total_updates)

    def learning_rate(self) -> float:
        """Warm-up, then linear decay."""
        config = self.config
        rate = config.learning_rate * (1 - self.progress * (1 - config.final_learning_rate))
        return rate * min(1.0, (self.updates + 1) / (config.warmup + 1))

    def learn(self, segments: Iterator[Segment]) -> dict[str, float]:
        """One gradient step per segment, in order; numbers of the last one, or {} without any.

        Raises:
            FloatingPointError: the gradients are not finite.
        """
        metrics: dict[str, Tensor] = {}
        self.network.train()  # dropout and batch-norm, here alone
        try:
            while group := list(islice(segments, self._before_copying())):
                for lesson in self.targets.lessons(group):
                    metrics = self.update(lesson)
        finally:
            self.network.eval()
        return read_metrics(metrics) if metrics else {}

    def _before_copying(self) -> int:
        """Updates that can share one pass of the target network."""
        every = self.config.target_every
        return min(every - self.updates % every, AT_ONCE)

    def update(self, lesson: Lesson) -> dict[str, Tensor]:
        """One gradient step; returns the losses, the mean spike rate and the gradients' norm.

        A GPU is not waited for: `read_metrics` does that, and finds diverged training there.

        Raises:
            FloatingPointError: the gradients are not finite; on the CPU nothing has changed then.
        """
        loss, metrics = self.loss(lesson)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        metrics["gradient_norm"] = self._limit_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.network.constrain()
        self.updates += 1
        if self.target is not None and self.updates % self.config.target_every == 0:
            self.target.load_state_dict(self.network.state_dict())
        if self.kept is not self.network:
            self._average()
        return metrics

    def loss(self, lesson: Lesson) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the TD loss, the distillation loss and the spike-rate penalty."""
        config, q, valid = self.config, lesson.q, lesson.valid
        td_weight, distill_weight = (
            _at(self.progress, weights) for weights in (config.td, config.distill)
        )
        loss = 0 * q.sum()  # has a gradient also where all weights are zero
        metrics: dict[str, Tensor] = {}
        if lesson.targets is not None:
            chosen = q.gather(2, lesson.action.unsqueeze(2)).squeeze(2)
            errors = functional.smooth_l1_loss(chosen, lesson.targets, reduction="none")
            td = _mean(errors, valid)
            loss = loss + td_weight * td
            metrics["td"] = td.detach()
        if distill_weight > 0 and lesson.teacher_q is not None:
            distill = _mean(distillation(q, lesson.teacher_q, config.temperature), valid)
            loss = loss + distill_weight * distill
            same = (q.argmax(2) == lesson.teacher_q.argmax(2)).float()
            metrics["distill"] = distill.detach()
            metrics["agreement"] = _mean(same, valid)
        if lesson.rates:
            rate = mean_rate(lesson.rates, self.network)
            metrics["spike_rate"] = rate.detach()
            if config.rate_penalty > 0:
                loss = loss + config.rate_penalty * rate
        return loss, metrics

    @torch.no_grad()
    def _average(self) -> None:
        """Move the running mean towards the weights: at first as the mean of all updates so far,
        so that it does not hang on to where the training began."""
        share = max(1 - self.config.average, 1 / self.updates)
        weights = self.network.state_dict()
        for name, mean in self.kept.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(weights[name], share)
            else:
                mean.copy_(weights[name])

    def _limit_gradients(self) -> Tensor:
        """Scale the gradients down to the largest norm allowed; their norm before."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm, limit = torch.nn.utils.get_total_norm(gradients), self.config.max_grad_norm
        on_cpu = norm.device.type == "cpu"
        if on_cpu:
            read_metrics({"gradient_norm": norm})
        if not on_cpu or norm > limit:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training."""
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict() if self.target is not None else {},
            "kept": self.kept.state_dict() if self.config.average else {},
            "optimizer": optimizer_state(self.optimizer),
            "updates": self.updates,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a state that `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        if self.target is not None:
            self.target.load_state_dict(state["target"])
        if self.config.average:
            self.kept.load_state_dict(state["kept"])
        self.updates = state["updates"]
        load_optimizer_state(self.optimizer, state["optimizer"])


def read_metrics(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Numbers of `Learner.update`, read at one go.

    Raises:
        FloatingPointError: the gradients were not finite.
    """
    values = torch.stack(list(metrics.values())).tolist()
    numbers: dict[str, float] = dict(zip(metrics, values, strict=True))
    if not math.isfinite(numbers["gradient_norm"]):
        raise FloatingPointError(
            "training diverged: the gradients are not finite; lower the learning rate"
        )
    return numbers


def _at(progress: float, ends: list[float]) -> float:
    return ends[0] + (ends[1] - ends[0]) * progress


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return (values * valid).sum() / valid.sum().clamp_min(1)
