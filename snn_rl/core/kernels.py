"""Loops for the CPU, compiled by numba: fused LIF scans, and the stacking of pixels.

The scans cut a frame's neurons, batch and layer side by side, into blocks; each block is walked
through all frames and timesteps while its membranes stay in cache: one pass over memory where the
same scan in torch operators takes about ten. The many small loops are each simple enough to become
vector instructions. Compiled without fast-math, hence multiply and add round separately
(numerical contract, 1).
"""

from __future__ import annotations

import math

import numpy as np

from snn_rl.core.compiling import inner, loop

TRIANGLE, ARCTAN = 0, 1

BLOCK = 8192
"""Neurons at a time: few enough for the cache, enough for long reads from memory."""

_ZERO, _ONE, _HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)


@inner
def _block():  # type: ignore[no-untyped-def]
    return np.empty(BLOCK, np.float32)


@loop
def lif_forward(current, membrane, threshold, leak, start, pre_reset, spikes):  # type: ignore[no-untyped-def]
    """Fill `pre_reset` and `spikes` [F, T, B, N]; `membrane` [B, N] is advanced in place.

    `current` is [F, 1 or T, B, N], `threshold` and `leak` [N], `start` [F, B]; all contiguous.
    """
    frames, repeats, batch, neurons = current.shape
    timesteps, total = spikes.shape[1], batch * neurons
    current = current.reshape(frames, repeats, total)
    pre_reset = pre_reset.reshape(frames, timesteps, total)
    spikes = spikes.reshape(frames, timesteps, total)
    membrane = membrane.reshape(total)
    v, decay = _block(), _block()
    for low in range(0, total, BLOCK):
        size = min(BLOCK, total - low)
        _tile(v[:size], threshold, low)
        _tile(decay[:size], leak, low)
        u = membrane[low : low + size]
        for f in range(frames):
            _reset(u, start[f], low, neurons)
            for t in range(timesteps):
                i = current[f, min(t, repeats - 1), low : low + size]
                p = pre_reset[f, t, low : low + size]
                o = spikes[f, t, low : low + size]
                for n in range(size):
                    p[n] = decay[n] * u[n] + i[n]
                for n in range(size):
                    spike = _ONE if p[n] > v[n] else _ZERO
                    o[n] = spike
                    u[n] = p[n] - v[n] * spike


@loop
def lif_backward(  # type: ignore[no-untyped-def]
    grad_spikes,
    grad_membrane,
    pre_reset,
    membrane,
    threshold,
    leak,
    start,
    kind,
    gamma,
    grad_current,
    grad_threshold,
    grad_leak,
    learned,
):
    """Backward pass of `lif_forward`; `grad_membrane` [B, N] is carried back in place.

    `membrane` [B, N] is the state before the first frame. `grad_current` [F, 1 or T, B, N] is
    filled. `grad_threshold` and `grad_leak` [N] are added to if they are `learned`: float64, since
    they sum over the whole batch.
    """
    frames, timesteps, batch, neurons = pre_reset.shape
    repeats, total = grad_current.shape[1], batch * neurons
    grad_spikes = grad_spikes.reshape(frames, timesteps, total)
    pre_reset = pre_reset.reshape(frames, timesteps, total)
    grad_current = grad_current.reshape(frames, repeats, total)
    membrane, grad_membrane = membrane.reshape(total), grad_membrane.reshape(total)
    slope, peak = np.float32(0.5 * math.pi) * gamma, _HALF * gamma
    v, inverse, decay = _block(), _block(), _block()
    du, dv = _block(), _block()
    sum_v, sum_leak = np.empty(BLOCK, np.float64), np.empty(BLOCK, np.float64)
    for low in range(0, total, BLOCK):
        size = min(BLOCK, total - low)
        _tile(v[:size], threshold, low)
        _tile(decay[:size], leak, low)
        for n in range(size):
            inverse[n] = _ONE / v[n]
            sum_v[n] = sum_leak[n] = 0.0
        g = grad_membrane[low : low + size]  # w.r.t. the membrane after the reset
        for f in range(frames - 1, -1, -1):
            for t in range(timesteps - 1, -1, -1):
                p = pre_reset[f, t, low : low + size]
                go = grad_spikes[f, t, low : low + size]
                gi = grad_current[f, min(t, repeats - 1), low : low + size]
                if f < frames - 1 or t < timesteps - 1:
                    # So far g is w.r.t. the pre-reset membrane of the step after this one.
                    if learned:
                        for n in range(size):
                            sum_leak[n] += g[n] * (p[n] - (v[n] if p[n] > v[n] else _ZERO))
                    for n in range(size):
                        g[n] *= decay[n]
                if kind == ARCTAN and not learned:
                    for n in range(size):
                        x = slope * (p[n] * inverse[n] - _ONE)
                        g[n] += go[n] * (peak / (_ONE + x * x)) * inverse[n]
                else:
                    if kind == ARCTAN:
                        for n in range(size):
                            x = slope * (p[n] * inverse[n] - _ONE)
                            du[n] = go[n] * (peak / (_ONE + x * x)) * inverse[n]
                    else:
                        for n in range(size):
                            height = _ONE - abs(p[n] * inverse[n] - _ONE)
                            rise = gamma * height if height > _ZERO else _ZERO
                            du[n] = go[n] * rise * inverse[n]
                    if learned:
                        for n in range(size):
                            spiked = g[n] if p[n] > v[n] else _ZERO
                            dv[n] = du[n] * (p[n] * inverse[n]) + spiked
                        for n in range(size):
                            sum_v[n] -= dv[n]
                    for n in range(size):
                        g[n] += du[n]
                if repeats > 1 or t == timesteps - 1:
                    for n in range(size):
                        gi[n] = g[n]
                else:
                    for n in range(size):
                        gi[n] += g[n]
            _reset(g, start[f], low, neurons)
        first = du[:size]
        first[:] = membrane[low : low + size]
        _reset(first, start[0], low, neurons)
        if learned:
            for n in range(size):
                sum_leak[n] += g[n] * first[n]
            _add_up(grad_threshold, sum_v[:size], low)
            _add_up(grad_leak, sum_leak[:size], low)
        for n in range(size):
            g[n] *= decay[n]


@inner
def _tile(block, values, low):  # type: ignore[no-untyped-def]
    """Repeat `values` [N] along a block that begins at neuron `low` of the batch."""
    done, n = 0, low % len(values)
    while done < len(block):
        part = min(len(block) - done, len(values) - n)
        block[done : done + part] = values[n : n + part]
        done, n = done + part, 0


@inner
def _add_up(values, block, low):  # type: ignore[no-untyped-def]
    """Add a block to `values` [N]: the reverse of `_tile`."""
    done, n = 0, low % len(values)
    while done < len(block):
        part = min(len(block) - done, len(values) - n)
        values[n : n + part] += block[done : done + part]
        done, n = done + part, 0


@inner
def _reset(block, start, low, neurons):  # type: ignore[no-untyped-def]
    """Zero the part of a block that belongs to batch rows with `start`."""
    high = low + len(block)
    for b in range(low // neurons, (high - 1) // neurons + 1):
        if start[b]:
            block[max(b * neurons, low) - low : min((b + 1) * neurons, high) - low] = _ZERO


@loop
def stack_pixels(frames, at, first, grey, stacked):  # type: ignore[no-untyped-def]
    """Fill `stacked` [N, B, P, S * C] with the S frames up to frame `at` [N, B], oldest first.

    `frames` are uint8 [F, B, C, P]; those before frame `first` [N, B] are black. `grey` [256] is
    what a pixel of each level counts.
    """
    chosen, batch, pixels, width = stacked.shape
    channels = frames.shape[2]
    count = width // channels
    for n in range(chosen):
        for b in range(batch):
            for s in range(count):
                f = at[n, b] - (count - 1 - s)
                for c in range(channels):
                    target = stacked[n, b, :, s * channels + c]
                    if f < first[n, b]:
                        target[:] = grey[0]
                    else:
                        source = frames[f, b, c]
                        for p in range(pixels):
                            target[p] = grey[source[p]]
