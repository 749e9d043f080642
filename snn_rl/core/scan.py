"""The leaky integrate-and-fire neuron as pure functions: one timestep, and its scan over frames
and timesteps with a hand-written backward.

Source: Chowdhury, Rathi and Roy, "Towards Ultra Low Latency Spiking Neural Networks for Vision
and Sequential Tasks Using Temporal Pruning" (ECCV 2022), Eqs. 1-3, with the reset in the same
timestep as the spike (read literally, Eq. 2 cannot spike at T = 1).

On the CPU in float32 the fused kernels run, backwards for the surrogates that they know; everywhere
else (CUDA, float64, another surrogate) plain torch operators. Both follow the numerical contract
and are tested against the same reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_rl.core.surrogates import Surrogate

IN_KERNELS = ("triangle", "arctan")
"""Surrogates that the fused backward knows, by the numbers that `snn_rl.core.kernels` has for them;
others train in torch operators."""


def lif_step(
    current: Tensor, membrane: Tensor, threshold: Tensor, leak: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One timestep of a layer of LIF neurons, without gradients.

        u <- leak * u + current;   o = 1 if u > threshold else 0;   u <- u - threshold * o

    Args:
        current: weighted input [batch, *neurons].
        membrane: membrane potential after the previous timestep, same shape.
        threshold, leak: broadcastable to [*neurons]; threshold > 0, 0 <= leak <= 1.

    Returns:
        spikes (0 or 1), the membrane after the reset, and the membrane before it.
    """
    pre_reset = membrane * leak + current
    spikes = (pre_reset > threshold).to(pre_reset.dtype)
    return spikes, pre_reset - threshold * spikes, pre_reset


def lif_scan(
    current: Tensor,
    membrane: Tensor,
    threshold: Tensor,
    leak: Tensor,
    episode_start: Tensor | None = None,
    *,
    timesteps: int,
    surrogate: Surrogate,
    start: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Run one layer over [frames x timesteps], its membranes carried throughout.

    Args:
        current: [frames, 1 or timesteps, batch, *neurons]; 1 means the same input at every
            timestep of a frame (the first layer, whose weighted input is computed once).
        membrane: [batch, *neurons] before the first frame.
        threshold, leak: broadcastable to [*neurons].
        episode_start: bool [frames, batch]; that row's membranes begin anew before the frame.
        timesteps: spiking steps per frame, >= 1.
        surrogate: gradient of the spike; in the reset the spike is detached.
        start: what membranes begin with, in thresholds.

    Returns:
        spikes [frames, timesteps, batch, *neurons], 0 or 1, and the membrane [batch, *neurons]
        after the last frame, in units of the weighted input.

    Raises:
        ValueError: `current` holds another number of timesteps, or `membrane` has another shape.

    Source: LIF with subtractive reset as in Chowdhury, Rathi and Roy 2022; the order of all
    operations is the contract of docs/numerics.md.
    """
    frames, repeats, batch, *neurons = current.shape
    if repeats not in (1, timesteps):
        raise ValueError(f"current holds {repeats} timesteps; expected 1 or {timesteps}")
    if membrane.shape != (batch, *neurons):
        raise ValueError(f"membrane is {tuple(membrane.shape)}; expected {(batch, *neurons)}")
    if start and episode_start is not None:
        return _frame_by_frame(
            current, membrane, threshold, leak, episode_start, timesteps, surrogate, start
        )
    # Membranes and thresholds stay in float32 under mixed precision.
    dtype = torch.float64 if current.dtype == torch.float64 else torch.float32
    if episode_start is None:
        episode_start = torch.zeros(frames, batch, dtype=torch.bool, device=current.device)
    # Neurons are scanned in the order in which they lie in memory, so that nothing is copied.
    last = _channels_last(current)
    current, membrane = _in(dtype, current), _in(dtype, membrane)
    threshold, leak = (_in(dtype, x).expand(*neurons) for x in (threshold, leak))
    if last:
        current, membrane = current.movedim(3, -1), membrane.movedim(1, -1)
        threshold, leak = threshold.movedim(0, -1), leak.movedim(0, -1)
    apply: Any = _Scan.apply
    spikes, final = apply(current, membrane, threshold, leak, episode_start, timesteps, surrogate)
    return (spikes.movedim(-1, 3), final.movedim(-1, 1)) if last else (spikes, final)


def _frame_by_frame(
    current: Tensor,
    membrane: Tensor,
    threshold: Tensor,
    leak: Tensor,
    episode_start: Tensor,
    timesteps: int,
    surrogate: Surrogate,
    start: float,
) -> tuple[Tensor, Tensor]:
    """The scan where membranes begin at `start` thresholds: the kernels know zero alone."""
    found = []
    for frame, anew in zip(current, episode_start, strict=True):
        rows = anew.view(-1, *[1] * (membrane.dim() - 1))
        membrane = torch.where(rows, (start * threshold).to(membrane.dtype), membrane)
        spikes, membrane = lif_scan(
            frame[None], membrane, threshold, leak, timesteps=timesteps, surrogate=surrogate
        )
        found.append(spikes)
    return torch.cat(found), membrane


def _channels_last(current: Tensor) -> bool:
    """Whether [frames, timesteps, batch, channels, height, width] lies with its channels last."""
    return current.dim() == 6 and current.movedim(3, -1).is_contiguous()


def _in(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


def _fused(current: Tensor) -> bool:
    return current.device.type == "cpu" and current.dtype == torch.float32


class _Scan(torch.autograd.Function):
    """The scan: current [F, R, B, *N], membrane [B, *N], threshold and leak [*N].

    Small layers cost more in the calls around the kernels than in them, so that nothing is made
    that nobody asks for.
    """

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        membrane: Tensor,
        threshold: Tensor,
        leak: Tensor,
        start: Tensor,
        timesteps: int,
        surrogate: Surrogate,
    ) -> tuple[Tensor, Tensor]:
        frames, repeats = current.shape[:2]
        pre_reset = membrane.new_empty(frames, timesteps, *membrane.shape)
        spikes = torch.empty_like(pre_reset)
        final = membrane.clone(memory_format=torch.contiguous_format)
        if _fused(current):
            from snn_rl.core import kernels

            kernels.lif_forward(
                *_flat(3, current), *_flat(1, final), *_flat(0, threshold, leak), *_flat(1, start),
                *_flat(3, pre_reset, spikes),
            )  # fmt: skip
        else:
            for f in range(frames):
                final = _begun(final, start[f])
                for t in range(timesteps):
                    i = current[f, min(t, repeats - 1)]
                    spikes[f, t], final, pre_reset[f, t] = lif_step(i, final, threshold, leak)
        ctx.save_for_backward(membrane, threshold, leak, start, pre_reset)
        ctx.repeats, ctx.surrogate = repeats, surrogate
        ctx.set_materialize_grads(False)
        return spikes, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_final: Tensor | None) -> Any:
        membrane, threshold, leak, start, pre_reset = ctx.saved_tensors
        shape = (len(pre_reset), ctx.repeats, *membrane.shape)
        kind, learned = ctx.surrogate.kind, any(ctx.needs_input_grad[2:4])
        if grad_spikes is None:
            grad_spikes = torch.zeros_like(pre_reset)
        grad = torch.zeros_like(membrane, memory_format=torch.contiguous_format)
        if grad_final is not None:
            grad.copy_(grad_final)
        if _fused(pre_reset) and kind in IN_KERNELS:
            from snn_rl.core import kernels

            summed = threshold.shape if learned else (0,)
            grad_threshold = torch.zeros(summed, dtype=torch.float64)
            grad_leak = torch.zeros(summed, dtype=torch.float64)
            grad_current = pre_reset.new_empty(shape)
            backward: Any = kernels.lif_backward
            backward(
                *_flat(3, grad_spikes), *_flat(1, grad), *_flat(3, pre_reset),
                *_flat(1, membrane), *_flat(0, threshold, leak), *_flat(1, start),
                IN_KERNELS.index(kind),
                pre_reset.numpy().dtype.type(ctx.surrogate.gamma),
                *_flat(3, grad_current), *_flat(0, grad_threshold, grad_leak), learned,
            )  # fmt: skip
        else:
            grad_current = pre_reset.new_zeros(shape)
            grad, grad_threshold, grad_leak = _backward(ctx, grad_spikes, grad, grad_current)
        return (
            grad_current,
            grad,
            grad_threshold.to(threshold.dtype) if learned else None,
            grad_leak.to(leak.dtype) if learned else None,
            None,
            None,
            None,
        )


def _backward(
    ctx: Any, grad_spikes: Tensor, grad: Tensor, grad_current: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The scan's backward in torch operators; fills `grad_current`."""
    membrane, threshold, leak, start, pre_reset = ctx.saved_tensors
    frames, timesteps = pre_reset.shape[:2]
    grad_threshold, grad_leak = torch.zeros_like(threshold), torch.zeros_like(leak)
    post_reset = pre_reset - threshold * (pre_reset > threshold)
    for f in reversed(range(frames)):
        for t in reversed(range(timesteps)):
            u = pre_reset[f, t]
            z = u / threshold
            through_spike = grad_spikes[f, t] * ctx.surrogate(z) / threshold
            grad_threshold -= (grad * (u > threshold) + through_spike * z).sum(0)
            grad = grad + through_spike
            grad_current[f, min(t, ctx.repeats - 1)] += grad
            if t > 0:
                before = post_reset[f, t - 1]
            else:
                before = post_reset[f - 1, -1] if f > 0 else membrane
                before = _begun(before, start[f])
            grad_leak += (grad * before).sum(0)
            grad = grad * leak
        grad = _begun(grad, start[f])
    return grad, grad_threshold, grad_leak


def _begun(values: Tensor, start: Tensor) -> Tensor:
    """Values [B, *N] with zeros in the rows that begin anew."""
    return values.masked_fill(start.view(-1, *[1] * (values.dim() - 1)), 0)


def _flat(kept: int, *tensors: Tensor) -> list[Any]:
    """As contiguous arrays, all axes but the first `kept` in one."""
    return [
        tensor.detach().contiguous().numpy().reshape(*tensor.shape[:kept], -1) for tensor in tensors
    ]
