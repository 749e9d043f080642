"""What Q-values are drawn to, and the parts of the loss: returns, distillation, spike rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from snn_rl.core.network import Network


@dataclass(frozen=True)
class Returns:
    """n-step returns, [F - n, B] each: target = total + discount * value(frame `index`)."""

    total: NDArray[np.float32]
    discount: NDArray[np.float32]
    index: NDArray[np.int64]


def n_step_returns(
    reward: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    *,
    gamma: float,
    n: int,
) -> Returns:
    """Discounted rewards of up to `n` steps and where to bootstrap.

    Termination ends a return; truncation bootstraps at the episode's final frame, which follows
    the truncated step; otherwise the frame `n` steps later counts.

    Args:
        reward, terminated, truncated: of the step after each frame, [F, B].
    """
    length = len(reward) - n
    total = np.zeros_like(reward[:length])
    alive = np.ones(total.shape, np.bool_)
    index = np.arange(n, n + length)[:, None] + np.zeros(total.shape, np.int64)
    discount = np.full_like(total, gamma**n)
    for k in range(n):
        now = slice(k, k + length)
        total += alive * np.float32(gamma**k) * reward[now]
        cut = alive & truncated[now] & ~terminated[now]
        index[cut] += k + 1 - n
        discount[cut] = gamma ** (k + 1)
        discount[alive & terminated[now]] = 0
        alive &= ~(terminated[now] | truncated[now])
    return Returns(total, discount, index)


def distillation(q: Tensor, teacher_q: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of softmax(Q / temperature) between teacher and student, nats.

    Source: policy distillation (Rusu et al. 2016, there with the temperature on the teacher alone;
    here on both); its labels are the teacher's on frames that the student visits,
    as in DAgger (Ross, Gordon and Bagnell 2011).

    Args:
        q, teacher_q: [frames, batch, actions], in units of return.
        temperature: > 0; the smaller, the more the teacher's best action alone counts.

    Returns:
        [frames, batch], differentiable in `q`.
    """
    wanted = functional.softmax(teacher_q / temperature, dim=2)
    return -(wanted * functional.log_softmax(q / temperature, dim=2)).sum(2)


def mean_rate(rates: Mapping[str, Tensor], network: Network) -> Tensor:
    """Spikes per neuron per frame over all spiking neurons (read-out excluded)."""
    sizes = {name: layer.size for name, layer in network.spiking.items()}
    total = sum(sizes[name] * rate for name, rate in rates.items())
    return torch.as_tensor(total / sum(sizes.values()))
