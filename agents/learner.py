"""Q-learning and distillation on segments, the same for the ANN and every spiking stage.

Sources: (double) DQN (van Hasselt et al. 2016), n-step targets, distillation of Q-values by the
cross-entropy of softmax(Q / temperature) (Rusu et al. 2016), on frames the student visits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.losses import distillation, mean_rate, n_step_returns
from snn_rl.agents.replay import Segment
from snn_rl.network import Network, SpikeHook, State
from snn_rl.stacking import stack_at

_Pair = tuple[Tensor, Tensor]


class Learner:
    """Updates a network from segments.

    Args:
        network: trained in place.
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
        self.timesteps, self.carry_membrane = timesteps, carry_membrane
        self.total_updates = max(1, total_updates)
        self.updates = 0
        # Stacked frames must be there, too, before the first frame that counts.
        self.burn_in = max(config.burn_in if network.spiking else 0, network.stack - 1)
        # Only bootstrapping needs a target network.
        self.target = network.clone().eval().requires_grad_(False) if max(config.td) > 0 else None
        network.eval()
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, fused=True)

    @property
    def ahead(self) -> int:
        """Frames needed behind a segment to bootstrap from."""
        return self.config.n_step if self.target is not None else 0

    @property
    def progress(self) -> float:
        """Fraction of the schedule that is done, 0 to 1."""
        return min(1.0, self.updates / self.total_updates)

    def learning_rate(self) -> float:
        """Warm-up, then linear decay."""
        config = self.config
        rate = config.learning_rate * (1 - self.progress * (1 - config.final_learning_rate))
        return rate * min(1.0, (self.updates + 1) / (config.warmup + 1))

    def update(self, segment: Segment) -> dict[str, Tensor]:
        """One gradient step; returns the losses, the mean spike rate and the gradients' norm.

        Dropout and batch-norm are in training mode for the losses alone. A GPU is not waited for:
        `read_metrics` does that, and finds diverged training there.

        Raises:
            FloatingPointError: the gradients are not finite; on the CPU nothing has changed then.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.network.train()
        loss, metrics = self.loss(segment)
        self.network.eval()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        limit = self.config.max_grad_norm
        metrics["gradient_norm"] = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        if self.network.device.type == "cpu":
            read_metrics(metrics)
        self.optimizer.step()
        self.network.constrain()
        self.updates += 1
        if self.target is not None and self.updates % self.config.target_every == 0:
            self.target.load_state_dict(self.network.state_dict())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training."""
        optimizer = [dict(self.optimizer.state[parameter]) for parameter in self.parameters]
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict() if self.target is not None else {},
            "optimizer": {str(number): state for number, state in enumerate(optimizer)},
            "updates": self.updates,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a state that `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        if self.target is not None:
            self.target.load_state_dict(state["target"])
        self.updates = state["updates"]
        for number, parameter in enumerate(self.parameters):
            # Adam's fused step needs its averages in the parameter's own memory layout.
            self.optimizer.state[parameter] = {
                name: torch.empty_like(
                    parameter if value.dim() else value, device=self.network.device
                ).copy_(value)
                for name, value in state["optimizer"][str(number)].items()
            }

    def loss(self, segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the TD loss, the distillation loss and the spike-rate penalty."""
        config = self.config
        burn_in = 0 if segment.state is not None else self.burn_in
        td_weight, distill_weight = (
            _at(self.progress, weights) for weights in (config.td, config.distill)
        )
        rates: dict[str, Tensor] = {}
        q, targets = self._forward(segment, burn_in, td_weight > 0, rates)
        now = slice(burn_in, burn_in + len(q))
        valid = self._tensor(segment.valid[now])
        loss = 0 * q.sum()  # has a gradient also where all weights are zero
        metrics: dict[str, Tensor] = {}
        if targets is not None:
            chosen = q.gather(2, self._tensor(segment.action[now]).unsqueeze(2)).squeeze(2)
            td = _mean(functional.smooth_l1_loss(chosen, targets, reduction="none"), valid)
            loss = loss + td_weight * td
            metrics["td"] = td.detach()
        if distill_weight > 0 and segment.teacher_q is not None:
            teacher_q = self._tensor(segment.teacher_q[now])
            distill = _mean(distillation(q, teacher_q, config.temperature), valid)
            loss = loss + distill_weight * distill
            same = (q.argmax(2) == teacher_q.argmax(2)).float()
            metrics["distill"] = distill.detach()
            metrics["agreement"] = _mean(same, valid)
        if rates:
            rate = mean_rate(rates, self.network)
            metrics["spike_rate"] = rate.detach()
            if config.rate_penalty > 0:
                loss = loss + config.rate_penalty * rate
        return loss, metrics

    def _forward(
        self, segment: Segment, burn_in: int, bootstrap: bool, rates: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Q-values [F, B, actions] of the frames between burn-in and bootstrap frames, and their
        TD targets [F, B] where asked for; fills `rates` per layer."""
        frames, start = self._tensor(segment.frames), self._tensor(segment.start)
        state: State = segment.state or ()
        if not state and self.network.spiking:
            state = self.network.initial_state(frames.shape[1])
        now = slice(burn_in, len(frames) - self.ahead)
        forward = self._in_sequence if self.network.spiking else self._one_by_one
        if not bootstrap:
            return forward(frames, start, state, now, None, rates)[0], None
        returns = n_step_returns(
            segment.reward[burn_in:],
            segment.terminated[burn_in:],
            segment.truncated[burn_in:],
            gamma=self.config.gamma,
            n=self.ahead,
        )
        final = self._tensor(returns.index), torch.arange(frames.shape[1], device=frames.device)
        q, after = forward(frames, start, state, now, final, rates)
        if after is None:
            return q, None
        chooser, value = after
        best = value.gather(2, chooser.argmax(2, keepdim=True)).squeeze(2)
        return q, self._tensor(returns.total) + self._tensor(returns.discount) * best

    def _in_sequence(
        self,
        frames: Tensor,
        start: Tensor,
        state: State,
        now: slice,
        final: _Pair | None,
        rates: dict[str, Tensor],
    ) -> tuple[Tensor, _Pair | None]:
        """Q-values of the frames `now`, and online and target ones of `final`, which counts from
        the first of them."""

        def observe(layer: str, spikes: Tensor) -> None:
            rates[layer] = spikes.sum(1).mean()

        before = state[0]
        if now.start:
            with torch.no_grad():
                _, state = self._run(self.network, frames[: now.start], state, start[: now.start])
        q, state = self._run(self.network, frames[now], state, start[now], observe)
        if self.target is None or final is None:
            return q, None
        with torch.no_grad():
            after, _ = self._run(self.network, frames[now.stop :], state, start[now.stop :])
            # The target runs over the same frames with membranes of its own.
            own = self.target.initial_state(frames.shape[1])
            if self.target.stack > 1:
                own = (before, *own[1:])
            value, _ = self._run(self.target, frames, own, start)
        values = value[now.start :][final]
        return q, (torch.cat([q, after])[final] if self.config.double else values, values)

    def _one_by_one(
        self,
        frames: Tensor,
        start: Tensor,
        state: State,
        now: slice,
        final: _Pair | None,
        rates: dict[str, Tensor],
    ) -> tuple[Tensor, _Pair | None]:
        """As `_in_sequence`, without membranes: each frame counts with those stacked to it."""
        stack, first = self.network.stack, now.start
        if stack > 1 and first < stack - 1:  # the older frames are in the state
            older = state[0].transpose(0, 1)
            frames = torch.cat([older, frames])
            start = torch.cat([start.new_zeros(older.shape[:2]), start])
            first += len(older)

        times = torch.arange(first, first + now.stop - now.start, device=frames.device)
        at = times[:, None].expand(-1, frames.shape[1])
        stacks = stack_at(frames, start, at, stack, self.network.offset)
        q, _ = self._run(self.network.on_stacks(), stacks, (), None)
        if self.target is None or final is None:
            return q, None
        stacks = stack_at(frames, start, first + final[0], stack, self.network.offset)
        with torch.no_grad():
            value, _ = self._run(self.target.on_stacks(), stacks, (), None)
            if not self.config.double:
                return q, (value, value)
            online, _ = self._run(self.network.on_stacks(), stacks, (), None)
        return q, (online, value)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        tensor, device = torch.from_numpy(array), self.network.device
        if device.type == "cuda":  # only from pinned memory does a copy run beside computation
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    def _run(
        self,
        network: Network,
        frames: Tensor,
        state: State,
        start: Tensor | None,
        on_spikes: SpikeHook | None = None,
    ) -> tuple[Tensor, State]:
        amp = self.config.amp
        # Spikes, membranes and thresholds are float32 in any case: see `lif_scan`.
        with torch.autocast(self.network.device.type, torch.bfloat16, enabled=amp):
            q, state = network(
                frames,
                state,
                start,
                timesteps=self.timesteps,
                carry_membrane=self.carry_membrane,
                on_spikes=on_spikes,
            )
        return q.float() if amp else q, state


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
