"""Neurons whose threshold adapts: against the NumPy reference, and from training to play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_runs import short
from torch import Tensor, nn

import snn_rl
from snn_rl.agents.exchange.recording import exportable
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.temporal_pruning import rescale_leaks
from snn_rl.conversion.tracing import trace
from snn_rl.core.adaptive import AdaptiveLIF, AdaptiveState
from snn_rl.core.neuron import LIF
from snn_rl.core.state import LIFState, leaves
from snn_rl.core.surrogates import Surrogate
from snn_rl.energy.accounting import energy_report
from snn_rl.errors import EngineError, SnnRlError

FRAMES, BATCH, NEURONS = 4, 3, (2, 3)


def layer_of(seed: int, granularity: Any, dtype: torch.dtype) -> AdaptiveLIF:
    layer, rng = AdaptiveLIF(NEURONS, granularity, granularity), np.random.default_rng(seed)
    with torch.no_grad():
        for parameter, (low, high) in zip(
            layer.parameters(), ((0.4, 1.2), (0.2, 1), (0.1, 0.8), (0.3, 1)), strict=True
        ):
            parameter.copy_(torch.from_numpy(rng.uniform(low, high, parameter.shape)))
    return layer.to(dtype)


def inputs_of(seed: int, repeats: int) -> tuple[Any, ...]:
    """Current, membrane, adaptation and resets."""
    rng = np.random.default_rng(seed + 1)
    current = rng.normal(0.4, 0.8, (FRAMES, repeats, BATCH, *NEURONS)).astype(np.float32)
    membrane = rng.normal(size=(BATCH, *NEURONS)).astype(np.float32)
    adaptation = rng.uniform(0, 0.5, (BATCH, *NEURONS)).astype(np.float32)
    return current, membrane, adaptation, rng.random((FRAMES, BATCH)) < 0.3


def arrays(layer: AdaptiveLIF) -> tuple[Any, ...]:
    return tuple(parameter.detach().numpy() for parameter in layer.parameters())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999), timesteps=st.integers(1, 4), repeated=st.booleans(),
    granularity=st.sampled_from(["layer", "channel", "neuron"]),
)  # fmt: skip
@torch.no_grad()
def test_in_float32_it_is_the_reference_bit_for_bit(
    seed: int, timesteps: int, repeated: bool, granularity: str
) -> None:
    layer = layer_of(seed, granularity, torch.float32)
    current, u, a, start = inputs_of(seed, timesteps if repeated else 1)
    state = AdaptiveState(torch.from_numpy(u), torch.from_numpy(a))
    how: tuple[Any, ...] = (torch.from_numpy(current), state, torch.from_numpy(start), timesteps)
    spikes, after = layer(*how, Surrogate())
    want = reference.adaptive_scan(current, u, a, arrays(layer), start, timesteps)
    assert 0 < spikes.mean() < 1
    for got, wanted in zip((spikes, *after, layer.pre_reset(*how)), want, strict=False):
        assert np.array_equal(got.numpy(), wanted)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999), timesteps=st.integers(1, 4), repeated=st.booleans(),
    kind=st.sampled_from(["triangle", "arctan"]),
)  # fmt: skip
def test_gradients_are_those_of_the_reference(
    seed: int, timesteps: int, repeated: bool, kind: str
) -> None:
    layer, repeats = layer_of(seed, "neuron", torch.float64), timesteps if repeated else 1
    *values, start = inputs_of(seed, repeats)
    given_leaves = [torch.from_numpy(x).double().requires_grad_() for x in values]
    current, u, a = given_leaves
    surrogate = Surrogate(kind, 1.3)
    resets = torch.from_numpy(start)
    spikes, after = layer(current, AdaptiveState(u, a), resets, timesteps, surrogate)
    generator = torch.Generator().manual_seed(seed)
    outputs = [spikes, *after]
    grads = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in outputs]
    torch.autograd.backward(outputs, grads)
    found = [leaf.grad for leaf in (*given_leaves, *layer.parameters())]
    run = reference.adaptive_scan(*(x.detach().numpy() for x in given_leaves), arrays(layer),
                                  start, timesteps)  # fmt: skip
    want = reference.adaptive_gradients(
        *(g.numpy() for g in grads), run, arrays(layer), start, repeats, kind, 1.3
    )
    for got, wanted in zip(found, want, strict=True):
        assert got is not None
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-9, atol=1e-9)


def test_the_reference_s_gradient_is_a_slope() -> None:
    """Where spikes do not change, membranes and adaptation are differentiable as they are."""
    layer = layer_of(3, "neuron", torch.float64)
    current, u, a, start = (x.astype(float) for x in inputs_of(3, 1))
    start = start.astype(bool)
    parameters, none = arrays(layer), np.zeros((FRAMES, 2, BATCH, *NEURONS))
    run = reference.adaptive_scan(current, u, a, parameters, start, 2)
    ones = np.ones_like(u)
    # A surrogate of no height leaves what does not pass through spikes.
    grads = reference.adaptive_gradients(
        none, ones, ones, run, parameters, start, 1, "triangle", 0.0
    )
    for index in range(4):
        shifted = [p + (1e-6 if i == index else 0) for i, p in enumerate(parameters)]
        moved = reference.adaptive_scan(current, u, a, tuple(shifted), start, 2)
        assert np.array_equal(moved[0], run[0])
        slope = sum((new - old).sum() for new, old in zip(moved[1:3], run[1:3], strict=True)) / 1e-6
        assert grads[3 + index].sum() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_without_strength_it_is_lif_with_its_gradients() -> None:
    adaptive, lif = AdaptiveLIF(NEURONS), LIF(NEURONS)
    current, u, _, start = inputs_of(5, 3)
    results = []
    for layer, zeros in ((adaptive, True), (lif, False)):
        with torch.no_grad():
            layer.threshold.fill_(0.7)
            layer.leak.fill_(0.8)
        membrane = torch.from_numpy(u)
        state: Any = AdaptiveState(membrane, membrane * 0) if zeros else LIFState(membrane)
        spikes, after = layer(
            torch.from_numpy(current), state, torch.from_numpy(start), 3, Surrogate("arctan")
        )
        loss = (spikes * torch.arange(spikes.numel()).view(spikes.shape)).sum() + after[0].sum()
        results.append((spikes, after[0], torch.autograd.grad(loss, [layer.threshold, layer.leak])))
    (spikes, membrane, grads), (others, other, wanted) = results
    assert torch.equal(spikes, others) and torch.equal(membrane, other)
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-3)


def test_parameters_stay_in_their_range_and_stretch() -> None:
    layer = AdaptiveLIF(NEURONS)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(-1.0)
    layer.constrain()
    assert [p.item() for p in layer.parameters()] == pytest.approx([1e-3, 0, 0, 0])
    layer.begin(0.2, 0.81)
    layer.stretch(0.5)
    assert layer.decay.item() == pytest.approx(0.9) and layer.strength.item() == pytest.approx(0.2)


def converted(timesteps: int = 3, **options: Any) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(),
                           nn.Linear(16, 2))  # fmt: skip
    x = torch.rand(6, 30, 4)
    chosen = NeuronOptions(**{"kind": "adaptive", "leak": "neuron", **options})
    ann = trace(module, (4,), pixels=False)
    return convert(ann, Calibration(x), timesteps=timesteps, options=chosen), x


def test_conversion_sets_them_up_for_its_timesteps() -> None:
    network, _ = converted(adaptation=0.3, adaptation_leak=0.5)
    assert [node.operation.kind for node in network.nodes].count("adaptive_lif") == 2
    layers = list(network.spiking.values())
    for layer in layers:
        assert isinstance(layer, AdaptiveLIF)
        torch.testing.assert_close(layer.strength, torch.full_like(layer.strength, 0.3))
        torch.testing.assert_close(layer.decay, torch.full_like(layer.decay, 0.5 ** (1 / 3)))
    rescale_leaks(network, 3, 1)
    torch.testing.assert_close(layers[0].decay, torch.full_like(layers[0].decay, 0.5))
    with pytest.raises(ValueError, match="of kind lif or adaptive, not 'tired'"):
        NeuronOptions(kind="tired")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="adaptation must be"):
        NeuronOptions(kind="adaptive", adaptation=-1)


def test_adaptation_quiets_what_fires_much() -> None:
    rates = []
    for strength in (0.0, 1.0):
        network, x = converted(adaptation=strength)
        seen: dict[str, Tensor] = {}
        network(x, timesteps=3, carry_membrane=True, on_spikes=seen.__setitem__)
        rates.append(seen[next(iter(network.spiking))].mean().item())
    assert 0 < rates[1] < 0.8 * rates[0]


def test_energy_counts_the_second_variable() -> None:
    network, _ = converted()
    rates = dict.fromkeys(network.spiking, 0.5)
    found = energy_report(network, 3, rates, carry_membrane=True)
    assert (found.neurons, found.adapting, found.adapting_spikes) == (36, 36, 18.0)
    # Per timestep u * leak, a * decay and threshold * a; per spike two additions.
    assert found.leak_multiplies == 2 * 36 * 3
    assert found.adaptation_multiplies == 36 * 3
    assert found.membrane_accesses == 2 * 2 * 36 * 3
    plain = energy_report(converted(kind="lif")[0], 3, rates, carry_membrane=True)
    assert plain.alpha == found.alpha  # Eq. 4 counts weights alone
    more = 2 * 36 * 3 * found.costs.multiply + (36 * 3 + 18) * found.costs.accumulate
    assert found.exact_pj == pytest.approx(plain.exact_pj + more)


def test_a_run_with_them_reaches_t1_is_saved_and_acts(tmp_path: Path) -> None:
    config = short(neurons={"kind": "adaptive", "adaptation": 0.2})
    agents = snn_rl.train(config, run_dir=tmp_path / "run")
    assert list(agents) == ["ann", "T2", "T1"]
    folder = tmp_path / "run" / "T1"
    with pytest.raises(EngineError, match=r"'hidden1'.*'adaptive_lif'"):
        snn_rl.load_agent(folder, engine="event")
    agent, trained = snn_rl.load_agent(folder), agents["T1"]
    assert agent.engine == "torch"
    with pytest.raises(SnnRlError, match=r"'hidden1'.*adaptive_lif"):
        exportable(agent).one_frame()  # which every export to ONNX and torch.export begins with
    with pytest.raises(SnnRlError, match=r"'hidden1'.*adaptive_lif"):
        snn_rl.export(agent, tmp_path / "a.c", to="c")
    assert not list(tmp_path.glob("a.*"))
    first = next(iter(agent.policy.network.spiking.values()))
    assert isinstance(first, AdaptiveLIF)
    assert not torch.equal(first.strength, torch.full_like(first.strength, 0.2)), "it was trained"
    trained.reset()
    for seed in range(20):
        x = np.random.default_rng(seed).normal(0, 0.5, (3, 4))
        assert np.array_equal(agent.q_values(x), trained.q_values(x))
    assert any(float(array.max()) > 0 for array in leaves(agent.state))
    state = agent.state.layers["hidden1"]
    assert state._fields == ("membrane", "adaptation")
    kept, again = agent.state, agent.q_values(x)
    agent.state = kept
    assert np.array_equal(agent.q_values(x), again)
