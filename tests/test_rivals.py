"""Spike for spike against other libraries' LIF neurons, where they are installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from snn_rl.core.scan import lif_scan
from snn_rl.core.surrogates import Surrogate

STEPS, BATCH, NEURONS = 200, 8, 64
TIE = 2e-5


def import_or_skip(name: str, package: str) -> Any:
    return pytest.importorskip(
        name, reason=f"{package} is not installed (pip install {package})", exc_type=ImportError
    )


def random_run(seed: int, leak: float, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [STEPS, 1, neurons], our spikes and final membranes, all away from ties.

    No input exceeds the threshold, hence no membrane 2 * threshold: one spike a step is enough.
    """
    rng = np.random.default_rng(seed)
    values = rng.normal(0.3, 0.6, (STEPS, BATCH, NEURONS)) * threshold
    current = torch.from_numpy(np.minimum(values, threshold).astype(np.float32))
    spikes, final = ours(current, leak, threshold)
    u = torch.zeros(BATCH, NEURONS, dtype=torch.float64)
    near = torch.zeros(BATCH, NEURONS, dtype=torch.bool)
    for i in current.double():
        u = leak * u + i
        near |= (u - threshold).abs() < TIE
        u = u - threshold * (u > threshold)
    assert float(near.float().mean()) < 0.2
    current = current[:, None, ~near]
    return current, spikes[:, None, ~near], final[None, ~near]


def ours(current: Tensor, leak: float, threshold: float) -> tuple[Tensor, Tensor]:
    """Half of the steps as frames, half as timesteps of a frame."""
    batch = current.shape[1:]
    spikes, final = lif_scan(
        current.reshape(STEPS // 4, 4, *batch),
        torch.zeros(batch),
        torch.tensor([threshold]),
        torch.tensor([leak]),
        timesteps=4,
        surrogate=Surrogate("arctan", 2.0),
    )
    return spikes.reshape(STEPS, *batch), final


@pytest.mark.parametrize(("tau", "threshold"), [(2.0, 1.0), (10.0, 1.0), (1.25, 0.3), (100.0, 2.5)])
def test_spikingjelly(tau: float, threshold: float) -> None:
    neuron = import_or_skip("spikingjelly.activation_based.neuron", "spikingjelly")
    lif = neuron.LIFNode(
        tau=tau, decay_input=False, v_threshold=threshold, v_reset=None, detach_reset=True
    )
    current, spikes, final = random_run(0, 1 - 1 / tau, threshold)
    rival = torch.stack([lif(i) for i in current])
    assert 0.05 < float(spikes.mean()) < 0.95
    assert torch.equal(rival, spikes)
    assert_allclose(lif.v.numpy(), final.numpy(), rtol=1e-4, atol=1e-4)


def test_spikingjelly_gradients() -> None:
    """At threshold 1 its ATan surrogate is ours."""
    neuron = import_or_skip("spikingjelly.activation_based.neuron", "spikingjelly")
    surrogate = import_or_skip("spikingjelly.activation_based.surrogate", "spikingjelly")
    lif = neuron.LIFNode(
        tau=4.0, decay_input=False, v_reset=None, detach_reset=True,
        surrogate_function=surrogate.ATan(alpha=2.0),
    )  # fmt: skip
    current, _, _ = random_run(1, 0.75, 1.0)
    weight = torch.rand(current.shape, generator=torch.Generator().manual_seed(0))
    one, other = (current.clone().requires_grad_() for _ in range(2))
    (torch.stack([lif(i) for i in one]) * weight).sum().backward()
    (ours(other, 0.75, 1.0)[0] * weight).sum().backward()
    assert one.grad is not None and other.grad is not None
    assert_allclose(one.grad.numpy(), other.grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("leak", "threshold"), [(0.5, 1.0), (0.9, 1.0), (0.2, 0.3), (0.99, 2.5)])
def test_snntorch(leak: float, threshold: float) -> None:
    snntorch = import_or_skip("snntorch", "snntorch")
    lif = snntorch.Leaky(
        beta=leak, threshold=threshold, reset_mechanism="subtract", reset_delay=False
    )
    current, spikes, final = random_run(0, leak, threshold)
    u, rival = torch.zeros_like(final), []
    for i in current:
        o, u = lif(i, u)
        rival.append(o)
    assert 0.05 < float(spikes.mean()) < 0.95
    assert torch.equal(torch.stack(rival), spikes)
    assert_allclose(u.numpy(), final.numpy(), rtol=1e-4, atol=1e-4)
