"""The numerical contract in plain NumPy, float64 unless told otherwise: slow and obvious."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def step(current: Array, u: Array, v: Array, leak: Array) -> tuple[Array, Array, Array]:
    """Multiply, then add; strict comparison; soft reset. Returns spikes, post- and pre-reset."""
    pre = (leak * u) + current
    o = np.where(pre > v, 1.0, 0.0).astype(pre.dtype)
    return o, pre - v * o, pre


def scan(
    current: Array, u: Array, v: Array, leak: Array, start: Array, timesteps: int
) -> tuple[Array, Array, Array, Array]:
    """One layer; current [F, 1 or T, B, N]. Returns spikes, final u, pre-reset, u before."""
    shape = (current.shape[0], timesteps, *current.shape[2:])
    spikes, pre, before = (np.zeros(shape, current.dtype) for _ in range(3))
    for f in range(shape[0]):
        u = np.where(start[f].reshape(-1, *[1] * (u.ndim - 1)), u.dtype.type(0), u)
        for t in range(timesteps):
            before[f, t] = u
            i = current[f, min(t, current.shape[1] - 1)]
            spikes[f, t], u, pre[f, t] = step(i, u, v, leak)
    return spikes, u, pre, before


def surrogate(z: Array, kind: str, gamma: float) -> Array:
    """Pseudo-derivative of the spike with respect to z = u / v."""
    if kind == "triangle":
        return gamma * np.maximum(0.0, 1.0 - np.abs(z - 1.0))
    return 0.5 * gamma / (1.0 + (0.5 * np.pi * gamma * (z - 1.0)) ** 2)


def scan_gradients(
    grad_spikes: Array, grad_final: Array, run: tuple[Array, ...], v: Array, leak: Array,
    start: Array, repeats: int, kind: str, gamma: float,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Gradients of `scan` w.r.t. current, first membrane, v and leak (the last two per neuron).

    du_t = g + do * s / v;  dv = -do * s * u / v^2 - g * o (spike in the reset is a constant);
    dI = du, dleak = du * u_before, and g of the step before is du * leak, 0 behind a reset.
    """
    spikes, _, pre, before = run
    grad_current = np.zeros((len(pre), repeats, *pre.shape[2:]))
    grad_v, grad_leak, g = np.zeros(pre.shape[3:]), np.zeros(pre.shape[3:]), grad_final
    for f in reversed(range(pre.shape[0])):
        for t in reversed(range(pre.shape[1])):
            s = grad_spikes[f, t] * surrogate(pre[f, t] / v, kind, gamma)
            grad_v += (-s * pre[f, t] / v**2 - g * spikes[f, t]).sum(0)
            g = g + s / v
            grad_current[f, min(t, repeats - 1)] += g
            grad_leak += (g * before[f, t]).sum(0)
            g = g * leak
        g = np.where(start[f].reshape(-1, *[1] * (g.ndim - 1)), 0.0, g)
    return grad_current, g, grad_v, grad_leak


def adaptive_step(
    current: Array, u: Array, a: Array, v: Array, leak: Array, strength: Array, decay: Array
) -> tuple[Array, Array, Array, Array]:
    """As `step`, with a threshold raised by the share a of it, which every spike adds to.

    Returns spikes, post-reset u, the new a, and pre-reset u.
    """
    pre = (leak * u) + current
    o = np.where(pre > v + (v * a), 1.0, 0.0).astype(pre.dtype)
    return o, pre - v * o, (decay * a) + strength * o, pre


def adaptive_scan(
    current: Array, u: Array, a: Array, parameters: tuple[Array, ...], start: Array, timesteps: int
) -> tuple[Array, ...]:
    """One layer; current [F, 1 or T, B, N]. Returns spikes, final u and a, and of every step the
    pre-reset u, and u and a before it."""
    shape = (current.shape[0], timesteps, *current.shape[2:])
    spikes, pre, u_before, a_before = (np.zeros(shape, current.dtype) for _ in range(4))
    for f in range(shape[0]):
        anew = start[f].reshape(-1, *[1] * (u.ndim - 1))
        u, a = (np.where(anew, x.dtype.type(0), x) for x in (u, a))
        for t in range(timesteps):
            u_before[f, t], a_before[f, t] = u, a
            i = current[f, min(t, current.shape[1] - 1)]
            spikes[f, t], u, a, pre[f, t] = adaptive_step(i, u, a, *parameters)
    return spikes, u, a, pre, u_before, a_before


def adaptive_gradients(
    grad_spikes: Array, grad_u: Array, grad_a: Array, run: tuple[Array, ...],
    parameters: tuple[Array, ...], start: Array, repeats: int, kind: str, gamma: float,
) -> list[Array]:  # fmt: skip
    """Gradients of `adaptive_scan` w.r.t. current, first u and a, and v, leak, strength, decay.

    z = u / v - a, ds = (do + strength * ga) * s(z); du = gu + ds / v; dv = -gu * o - ds * u / v^2
    (spike in the reset is a constant); da = decay * ga - ds; dstrength = ga * o, ddecay = ga * a.
    """
    spikes, _, _, pre, u_before, a_before = run
    v, leak, strength, decay = parameters
    grad_current = np.zeros((len(pre), repeats, *pre.shape[2:]))
    grads = [np.zeros(pre.shape[3:]) for _ in parameters]
    for f in reversed(range(pre.shape[0])):
        for t in reversed(range(pre.shape[1])):
            o, u, before, a = (x[f, t] for x in (spikes, pre, u_before, a_before))
            ds = (grad_spikes[f, t] + strength * grad_a) * surrogate(u / v - a, kind, gamma)
            du = grad_u + ds / v
            found = (-grad_u * o - ds * u / v**2, du * before, grad_a * o, grad_a * a)
            grads = [total + new.sum(0) for total, new in zip(grads, found, strict=True)]
            grad_current[f, min(t, repeats - 1)] += du
            grad_u, grad_a = du * leak, grad_a * decay - ds
        anew = start[f].reshape(-1, *[1] * (grad_u.ndim - 1))
        grad_u, grad_a = np.where(anew, 0.0, grad_u), np.where(anew, 0.0, grad_a)
    return [grad_current, grad_u, grad_a, *grads]


def conv(x: Array, w: Array, stride: int = 1) -> Array:
    """Convolution without padding; x [..., C, H, W], w [O, C, k, k]."""
    k = w.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), (-2, -1))
    return np.einsum("...chwij,ocij->...ohw", windows[..., ::stride, ::stride, :, :], w)


def network(
    layers: list[dict[str, Any]], x: Array, state: list[Array], start: Array, timesteps: int,
    carry: bool = True,
) -> tuple[Array, list[Array], list[Array]]:  # fmt: skip
    """Spiking layers {w, b, v, leak, stride}, the last without v; x [F, B, ...] real or pixels/256.

    Returns outputs [F, B, n] averaged over T, the new state and the spikes of every layer. Sums
    are in float64, rounded to the type of `x`; everything else is in that type.
    """
    values, new_state, all_spikes = x[:, None], [], []
    resets = start if carry else np.ones_like(start)
    for index, layer in enumerate(layers):
        w, b = layer["w"].astype(np.float64), layer["b"].astype(np.float64)
        a = values.astype(np.float64)
        if w.ndim == 4:
            current = conv(a, w, layer.get("stride", 1)) + b[:, None, None]
        else:
            current = a.reshape(*a.shape[:3], -1) @ w.T + b
        if "v" not in layer:
            return current.mean(1).astype(x.dtype), new_state, all_spikes
        v, leak = layer["v"].astype(x.dtype), layer["leak"].astype(x.dtype)
        values, u, _, _ = scan(current.astype(x.dtype), state[index], v, leak, resets, timesteps)
        new_state.append(u)
        all_spikes.append(values)
    raise AssertionError("the last layer does not spike")
