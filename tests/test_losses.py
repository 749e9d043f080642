"""Parts of the loss: n-step returns, distillation, mean spike rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segments import (
    ACTIONS,
    BATCH,
    segment_of,
    slow_return,
    spiking_network,
)

from snn_rl.agents.dqn.losses import distillation, mean_rate, n_step_returns
from snn_rl.agents.dqn.replay import Segment


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 6),
    more=st.integers(1, 8),
    gamma=st.floats(0, 0.999),
    ends=st.floats(0, 1),
)
def test_n_step_returns(seed: int, n: int, more: int, gamma: float, ends: float) -> None:
    segment = segment_of(n + more, seed, ends)
    value = np.random.default_rng(seed).normal(size=segment.reward.shape)
    found = n_step_returns(segment.reward, segment.terminated, segment.truncated, gamma=gamma, n=n)
    assert found.total.shape == found.discount.shape == found.index.shape == (more, BATCH)
    for f in range(more):
        for b in range(BATCH):
            if not segment.valid[f, b]:
                continue
            total, discount, index = slow_return(segment, f, b, n, gamma)
            target = found.total[f, b] + found.discount[f, b] * value[found.index[f, b], b]
            assert target == pytest.approx(total + discount * value[index, b], abs=1e-4)


def one_step(terminated: bool, truncated: bool) -> Segment:
    segment = segment_of(3, ends=0)
    segment.terminated[0], segment.truncated[0] = terminated, truncated
    return segment


def test_truncation_bootstraps_and_termination_does_not() -> None:
    for terminated, truncated, discount in [(False, True, 0.9), (True, False, 0), (True, True, 0)]:
        s = one_step(terminated, truncated)
        found = n_step_returns(s.reward, s.terminated, s.truncated, gamma=0.9, n=2)
        np.testing.assert_allclose(found.discount[0], discount, rtol=1e-6)
        np.testing.assert_allclose(found.total[0], s.reward[0])
        if discount:
            assert (found.index[0] == 1).all()


def test_distillation_is_the_cross_entropy_at_a_temperature() -> None:
    q, teacher_q = torch.randn(2, 4, 7, ACTIONS).unbind()
    for temperature in (0.1, 1.0, 5.0):
        found = distillation(q, teacher_q, temperature)
        wanted = torch.distributions.Categorical(logits=teacher_q / temperature)
        got = torch.distributions.Categorical(logits=q / temperature)
        divergence = torch.distributions.kl_divergence(wanted, got)
        entropy = wanted.entropy()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(found, divergence + entropy)


def test_mean_rate_counts_neurons_not_layers() -> None:
    network = spiking_network()
    first, second = network.spiking
    rates = {first: torch.tensor(0.5), second: torch.tensor(0.1)}
    expected = (16 * 0.5 + 12 * 0.1) / 28
    assert float(mean_rate(rates, network)) == pytest.approx(expected)
