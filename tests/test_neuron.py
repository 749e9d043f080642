"""The LIF neuron and its scan against the NumPy reference."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor

from snn_rl.core.neuron import LIF, THRESHOLD_FLOOR, lif_step, parameter_shape
from snn_rl.core.scan import lif_scan
from snn_rl.core.surrogates import Surrogate

TIE = 1e-3
"""Random data whose membranes come this close to the threshold are drawn again."""

few = settings(max_examples=60, deadline=None, derandomize=True)


@dataclass
class Case:
    """Random input of one layer, its reference run and the gradients fed into it."""

    current: Any
    membrane: Any
    threshold: Any
    leak: Any
    start: Any
    timesteps: int
    surrogate: Surrogate
    run: tuple[Any, ...]
    grad_spikes: Any
    grad_final: Any


@st.composite
def cases(draw: Callable[[Any], Any]) -> Case:
    frames, timesteps, batch = (draw(st.integers(1, n)) for n in (4, 4, 3))
    repeats = draw(st.sampled_from([1, timesteps]))
    neurons = draw(st.sampled_from([(1,), (7,), (2, 3, 3)]))
    v_shape = parameter_shape(neurons, draw(st.sampled_from(["layer", "channel", "neuron"])))
    leak_shape = parameter_shape(neurons, draw(st.sampled_from(["layer", "channel", "neuron"])))
    kind: Literal["triangle", "arctan"] = draw(st.sampled_from(["triangle", "arctan"]))
    resets = draw(st.sampled_from([0.0, 0.3, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    while True:
        # Numbers that float32 holds exactly, so that both types see the same input.
        def values(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Any:
            drawn = rng.normal(size=shape) * scale + shift
            return drawn.astype(np.float32).astype(np.float64)

        current = values(frames, repeats, batch, *neurons, scale=0.8, shift=0.4)
        membrane = values(batch, *neurons)
        threshold = np.abs(values(*v_shape, scale=0.3, shift=1.0)) + 0.25
        leak = np.clip(values(*leak_shape, scale=0.4, shift=0.6), 0.0, 1.0)
        start = rng.random((frames, batch)) < resets
        run = reference.scan(current, membrane, threshold, leak, start, timesteps)
        if np.abs(run[2] - threshold).min() > TIE:
            break
    return Case(
        current, membrane, threshold, leak, start, timesteps,
        Surrogate(kind, draw(st.sampled_from([0.3, 1.0, 2.0]))), run,
        values(*run[0].shape), values(*membrane.shape),
    )  # fmt: skip


def run_case(case: Case, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor]:
    """Leaves [current, membrane, threshold, leak] with gradients, spikes, final membrane."""
    inputs = (case.current, case.membrane, case.threshold, case.leak)
    leaves = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in inputs]
    spikes, final = lif_scan(
        *leaves, torch.tensor(case.start), timesteps=case.timesteps, surrogate=case.surrogate
    )
    grads = [torch.tensor(g, dtype=dtype) for g in (case.grad_spikes, case.grad_final)]
    torch.autograd.backward([spikes, final], grads)
    return leaves, spikes.detach(), final.detach()


def close(got: Tensor, want: Any) -> None:
    """1e-6 relative to the largest value of the array for float32, exact but rounding for 64."""
    scale = max(1.0, float(np.abs(want).max()))
    tolerance = 1e-6 if got.dtype == torch.float32 else 1e-12
    assert_allclose(got.numpy(), want, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fused", "torch"])
@few
@given(case=cases())
def test_scan_matches_reference(dtype: torch.dtype, case: Case) -> None:
    leaves, spikes, final = run_case(case, dtype)
    assert np.array_equal(spikes.numpy(), case.run[0])
    close(final, case.run[1])

    grad_current, grad_membrane, grad_v, grad_leak = reference.scan_gradients(
        case.grad_spikes, case.grad_final, case.run, case.threshold, case.leak, case.start,
        case.current.shape[1], case.surrogate.kind, case.surrogate.gamma,
    )  # fmt: skip
    wanted = [grad_current, grad_membrane]
    for parameter, per_neuron in ((case.threshold, grad_v), (case.leak, grad_leak)):
        axes = tuple(a for a, n in enumerate(parameter.shape) if n != per_neuron.shape[a])
        wanted.append(per_neuron.sum(axes, keepdims=True))
    for leaf, want in zip(leaves, wanted, strict=True):
        assert leaf.grad is not None
        close(leaf.grad, want)


@few
@given(case=cases(), exact=st.booleans())
def test_fused_forward_equals_step_by_step_bit_for_bit(case: Case, exact: bool) -> None:
    names = (case.current, case.membrane, case.threshold, case.leak)
    current, u, v, leak = (torch.tensor(value, dtype=torch.float32) for value in names)
    if exact:  # many ties: membranes on a coarse grid, u == v among them
        current, u, v = (torch.round(a * 4) / 4 for a in (current, u, v.clamp_min(0.5)))
        leak = torch.round(leak * 2) / 2
    start = torch.tensor(case.start)
    how: dict[str, Any] = {"timesteps": case.timesteps, "surrogate": case.surrogate}
    spikes, final = lif_scan(current, u, v, leak, start, **how)
    for f in range(len(current)):
        u = u.masked_fill(start[f].view(-1, *[1] * (u.dim() - 1)), 0.0)
        for t in range(case.timesteps):
            o, u, _ = lif_step(current[f, min(t, current.shape[1] - 1)], u, v, leak)
            assert torch.equal(spikes[f, t], o)
    assert torch.equal(final, u)


def test_wide_layers_match_reference() -> None:
    """More neurons than the kernels handle at a time, and a number that no vector divides."""
    rng = np.random.default_rng(3)
    current = rng.normal(0.3, 1.0, (3, 2, 2, 5003)).astype(np.float32)
    v = rng.uniform(0.5, 1.5, 5003).astype(np.float32)
    leak = rng.uniform(0, 1, 5003).astype(np.float32)
    start = np.array([[False, True], [True, False], [False, False]])
    u = np.zeros((2, 5003), np.float32)
    run = reference.scan(current, u, v, leak, start, 2)
    gradient = rng.normal(size=run[0].shape)
    final = rng.normal(size=u.shape)
    leaves = [torch.tensor(a, requires_grad=True) for a in (current, u, v, leak)]
    outputs = lif_scan(*leaves, torch.tensor(start), timesteps=2, surrogate=Surrogate())
    assert np.array_equal(outputs[0].detach().numpy(), run[0])
    assert np.array_equal(outputs[1].detach().numpy(), run[1])
    torch.autograd.backward(
        outputs, [torch.tensor(g, dtype=torch.float32) for g in (gradient, final)]
    )
    wanted = reference.scan_gradients(gradient, final, run, v, leak, start, 2, "triangle", 0.3)
    for leaf, want in zip(leaves, wanted, strict=True):
        assert leaf.grad is not None
        assert_allclose(leaf.grad.numpy(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spike_needs_more_than_the_threshold(dtype: torch.dtype) -> None:
    threshold = torch.tensor([0.75], dtype=dtype)
    above = torch.nextafter(threshold, torch.full_like(threshold, 2.0))
    current = torch.cat([threshold, above]).reshape(1, 1, 1, 2)
    zero, one = torch.zeros(1, 2, dtype=dtype), torch.ones(1, dtype=dtype)
    spikes, final = lif_scan(current, zero, threshold, one, timesteps=1, surrogate=Surrogate())
    assert spikes.flatten().tolist() == [0.0, 1.0]
    assert final[0, 0] == threshold and final[0, 1] == above - threshold


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spike_in_the_reset_is_detached(dtype: torch.dtype) -> None:
    """d(final)/d(current) = 1 although the neuron spikes; the threshold sees -1 for it."""
    current = torch.full((1, 1, 1, 1), 1.25, dtype=dtype, requires_grad=True)
    threshold = torch.ones(1, dtype=dtype, requires_grad=True)
    leak, zero = torch.ones(1, dtype=dtype), torch.zeros(1, 1, dtype=dtype)
    _, final = lif_scan(current, zero, threshold, leak, timesteps=1, surrogate=Surrogate())
    final.sum().backward()
    assert current.grad is not None and float(current.grad.sum()) == 1.0
    assert threshold.grad is not None and float(threshold.grad) == -1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reset_forgets_membranes_that_are_not_finite(dtype: torch.dtype, bad: float) -> None:
    membrane = torch.tensor([[bad, 0.3], [0.2, 0.1]], dtype=dtype, requires_grad=True)
    current = torch.full((2, 2, 2, 2), 0.4, dtype=dtype, requires_grad=True)
    v, leak = (torch.full((2,), x, dtype=dtype, requires_grad=True) for x in (1.0, 0.9))
    start = torch.tensor([[True, False], [False, True]])
    spikes, final = lif_scan(
        current, membrane, v, leak, start, timesteps=2, surrogate=Surrogate("arctan", 2.0)
    )
    (spikes.sum() + final.sum()).backward()
    assert final.isfinite().all()
    for leaf in (current, membrane, v, leak):
        assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert membrane.grad is not None and membrane.grad[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_leak_gradient_without_memory_and_no_input_is_changed(dtype: torch.dtype) -> None:
    case_inputs = [torch.rand(2, 1, 3, 4), torch.rand(3, 4), torch.ones(4), torch.rand(4)]
    leaves = [a.to(dtype).requires_grad_() for a in case_inputs]
    copies = [leaf.detach().clone() for leaf in leaves]
    start = torch.ones(2, 3, dtype=torch.bool)
    spikes, final = lif_scan(*leaves, start, timesteps=1, surrogate=Surrogate())
    (spikes.sum() + final.sum()).backward()
    for leaf, copy in zip(leaves, copies, strict=True):
        assert torch.equal(leaf.detach(), copy)
    assert leaves[3].grad is not None and not leaves[3].grad.any()


def test_expanded_and_transposed_input() -> None:
    """Gradients of broadcast outputs and input in odd memory layouts reach the kernels."""
    current = torch.rand(4, 3, 1, 2).permute(3, 2, 1, 0).requires_grad_()
    u, v, leak = torch.rand(4, 3).t(), torch.ones(1), torch.full((1,), 0.5)
    how: dict[str, Any] = {"timesteps": 3, "surrogate": Surrogate()}
    spikes, final = lif_scan(current, u, v, leak, **how)
    (gradient,) = torch.autograd.grad(spikes.sum() + final.sum(), current)
    same = current.detach().contiguous().requires_grad_()
    spikes2, final2 = lif_scan(same, u.contiguous(), v, leak, **how)
    (gradient2,) = torch.autograd.grad(spikes2.sum() + final2.sum(), same)
    assert torch.equal(spikes, spikes2) and torch.equal(final, final2)
    assert torch.equal(gradient, gradient2)


def test_half_precision_input_is_scanned_in_float32() -> None:
    current, u = torch.rand(1, 1, 2, 3).to(torch.bfloat16), torch.rand(2, 3)
    spikes, final = lif_scan(
        current, u, torch.ones(1), torch.ones(1), timesteps=1, surrogate=Surrogate()
    )
    assert spikes.dtype == final.dtype == torch.float32
    assert_allclose((final + spikes[0, 0]).numpy(), (u + current[0, 0].float()).numpy(), atol=1e-6)


def test_scan_names_what_does_not_fit() -> None:
    current, one = torch.zeros(1, 2, 3, 4), torch.ones(1)
    how: dict[str, Any] = {"timesteps": 3, "surrogate": Surrogate()}
    with pytest.raises(ValueError, match=r"2 timesteps; expected 1 or 3"):
        lif_scan(current, torch.zeros(3, 4), one, one, **how)
    with pytest.raises(ValueError, match=r"\(2, 4\); expected \(3, 4\)"):
        lif_scan(current[:, :1], torch.zeros(2, 4), one, one, **how)


@few
@given(
    neurons=st.sampled_from([(5,), (2, 3, 3)]),
    granularity=st.sampled_from(["layer", "channel", "neuron"]),
    seed=st.integers(0, 1000),
)
def test_constrain_keeps_floor_and_range(neurons: Any, granularity: Any, seed: int) -> None:
    layer = LIF(neurons, granularity, granularity)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in (layer.threshold, layer.leak):
            p.copy_(torch.randn(p.shape, generator=generator) * 2)
    threshold, leak = layer.threshold.detach().clone(), layer.leak.detach().clone()
    layer.constrain()
    assert bool((layer.threshold >= THRESHOLD_FLOOR).all())
    assert bool(((layer.leak >= 0) & (layer.leak <= 1)).all())
    kept = threshold >= THRESHOLD_FLOOR
    assert torch.equal(layer.threshold[kept], threshold[kept])
    kept = (leak >= 0) & (leak <= 1)
    assert torch.equal(layer.leak[kept], leak[kept])
    assert torch.broadcast_shapes(layer.threshold.shape, neurons) == neurons


def test_spread_leak_covers_the_range() -> None:
    layer = LIF((6,), leak="neuron")
    layer.spread_leak(0.0, 0.5)
    assert_allclose(layer.leak.detach().numpy(), np.linspace(0, 0.5, 6), rtol=1e-6)
    single = LIF((6,))
    single.spread_leak(0.0, 0.5)
    assert single.leak.tolist() == [0.25]


@pytest.mark.parametrize("arguments", [("", 0.3), ("triangle", 0.0), ("arctan", float("nan"))])
def test_surrogate_refuses_nonsense(arguments: Any) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        Surrogate(*arguments)


SCAN = """
import torch
from snn_rl.core.scan import lif_scan
from snn_rl.core.surrogates import Surrogate
current, one = torch.ones(1, 1, 1, 3, requires_grad=True), torch.ones(1)
start = torch.zeros(1, 3)
spikes, _ = lif_scan(current, start, 0.5 * one, one, timesteps=2, surrogate=Surrogate())
spikes.sum().backward()
print(int(spikes.sum()))
"""


def test_a_cache_that_cannot_be_written_or_read_is_no_error(tmp_path: Path) -> None:
    def scan(cache: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", SCAN], env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
            capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr

    (tmp_path / "file").touch()
    scan(tmp_path / "file" / "below")
    scan(tmp_path / "cache")
    files = list((tmp_path / "cache").rglob("*.nb*"))
    assert files
    for file in files:
        file.write_bytes(b"damaged")
    scan(tmp_path / "cache")
