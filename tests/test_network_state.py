"""The network's state: segments, batches, episodes and stacks against plain references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modules import FEATURES, seeded
from networks import cnn, mlp, play
from numpy.testing import assert_allclose
from torch import Tensor, nn

from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.temporal_pruning import temporal_pruning
from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network, State
from snn_rl.core.operations import PIXEL_UNIT
from snn_rl.runs.checkpoint import load, save

few = settings(max_examples=25, deadline=None, derandomize=True)


def same(a: tuple[Tensor, State], b: tuple[Tensor, State]) -> None:
    assert torch.equal(a[0], b[0])
    assert len(a[1]) == len(b[1])
    for one, other in zip(a[1], b[1], strict=True):
        assert torch.equal(one, other)


networks = st.builds(
    lambda kind, seed, stack: (mlp if kind else cnn)(seed, stack=stack),
    st.booleans(),
    st.integers(0, 50),
    st.sampled_from([1, 3]),
)


@few
@given(
    network=networks, seed=st.integers(0, 999), timesteps=st.integers(1, 4), cut=st.integers(1, 5)
)
@torch.no_grad()
def test_segment_equals_frame_by_frame_and_any_cut(
    network: Network, seed: int, timesteps: int, cut: int
) -> None:
    x, start = play(network, 6, 3, seed)
    whole = network(x, network.initial_state(3), start, timesteps=timesteps)
    outputs, state = [], network.initial_state(3)
    for f in range(6):
        y, state = network(x[f : f + 1], state, start[f : f + 1], timesteps=timesteps)
        outputs.append(y)
    same(whole, (torch.cat(outputs), state))

    first, state = network(x[:cut], network.initial_state(3), start[:cut], timesteps=timesteps)
    second, state = network(x[cut:], state, start[cut:], timesteps=timesteps)
    same(whole, (torch.cat([first, second]), state))


@few
@given(network=networks, seed=st.integers(0, 999), timesteps=st.integers(1, 4), carry=st.booleans())
@torch.no_grad()
def test_batch_equals_single_rows(network: Network, seed: int, timesteps: int, carry: bool) -> None:
    x, start = play(network, 4, 5, seed)
    how: dict[str, Any] = {"timesteps": timesteps, "carry_membrane": carry}
    y, state = network(x, network.initial_state(5), start, **how)
    for b in range(5):
        row = slice(b, b + 1)
        single = network(x[:, row], network.initial_state(1), start[:, row], **how)
        same((y[:, row], tuple(s[row] for s in state)), single)


def as_reference(network: Network, names: list[tuple[str, str | None]]) -> list[dict[str, Any]]:
    layers = []
    for weighted, lif in names:
        module: Any = network.layers[weighted]
        layer = {"w": module.weight.detach().numpy(), "b": module.bias.detach().numpy()}
        if lif is not None:
            neuron = network.spiking[lif]
            layer["v"] = neuron.threshold.detach().numpy()
            layer["leak"] = neuron.leak.detach().numpy()
        layers.append(layer)
    return layers


@few
@given(
    pixels=st.booleans(),
    seed=st.integers(0, 999),
    timesteps=st.integers(1, 6),
    carry=st.booleans(),
    resets=st.sampled_from([0.0, 0.3]),
)
@torch.no_grad()
def test_network_equals_reference_at_every_t(
    pixels: bool, seed: int, timesteps: int, carry: bool, resets: float
) -> None:
    """Spikes and membranes bit for bit: sums on the grid are exact, the steps are float32."""
    network = cnn(seed) if pixels else mlp(seed)
    first, second = ("conv1", "conv2") if pixels else ("fc1", "fc2")
    layers = as_reference(network, [(first, "lif1"), (second, "lif2"), ("out", None)])
    x, start = play(network, 5, 2, seed, resets)
    state = network.initial_state(2)
    spikes: dict[str, Tensor] = {}
    y, new_state = network(
        x, state, start, timesteps=timesteps, carry_membrane=carry, on_spikes=spikes.__setitem__
    )
    observed = x.numpy().astype(np.float32) * np.float32(PIXEL_UNIT if pixels else 1)
    want, want_state, want_spikes = reference.network(
        layers, observed, [s.numpy() for s in state], start.numpy(), timesteps, carry
    )
    for got, spiked in zip(spikes.values(), want_spikes, strict=True):
        assert np.array_equal(got.numpy(), spiked)
    for got, membrane in zip(new_state, want_state, strict=True):
        assert np.array_equal(got.numpy(), membrane)
    assert_allclose(y.numpy(), want, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_reference_tests_see_spikes() -> None:
    """The random networks above fire, and not always."""
    for network in (mlp(1), cnn(1)):
        x, start = play(network, 20, 4, 0)
        rates: dict[str, float] = {}

        def note(name: str, s: Tensor, into: dict[str, float] = rates) -> None:
            into[name] = float(s.mean())

        network(x, network.initial_state(4), start, timesteps=3, on_spikes=note)
        assert all(0.03 < rate < 0.97 for rate in rates.values()), rates


@torch.no_grad()
def test_read_out_is_the_mean_over_timesteps() -> None:
    network = mlp(2)
    x, _ = play(network, 3, 2, 0)
    seen: dict[str, Tensor] = {}
    y, _ = network(x, network.initial_state(2), timesteps=5, on_spikes=seen.__setitem__)
    out: Any = network.layers["out"]
    assert_allclose(y.numpy(), out(seen["lif2"]).mean(1).numpy(), rtol=1e-6, atol=1e-6)
    assert seen["lif2"].shape == (3, 5, 2, 5)


@few
@given(network=networks, seed=st.integers(0, 999), timesteps=st.integers(1, 3))
@torch.no_grad()
def test_without_carry_every_frame_starts_from_zero(
    network: Network, seed: int, timesteps: int
) -> None:
    x, start = play(network, 4, 2, seed)
    how: dict[str, Any] = {"timesteps": timesteps, "carry_membrane": False}
    junk = tuple(
        torch.full_like(s, 3) if s.dim() != x.dim() or network.stack == 1 else s
        for s in network.initial_state(2)
    )
    y, _ = network(x, junk, start, **how)
    zero = network.initial_state(2)
    state = zero
    for f in range(4):
        one, state = network(x[f : f + 1], state, start[f : f + 1], timesteps=timesteps)
        assert torch.equal(y[f], one[0])
        # stacked frames are the input of a frame, not its memory: they stay
        state = (state[0], *zero[1:]) if network.stack > 1 else zero


@few
@given(network=networks, seed=st.integers(0, 999), frame=st.integers(0, 4))
@torch.no_grad()
def test_episode_start_zeroes_exactly_its_row(network: Network, seed: int, frame: int) -> None:
    x, _ = play(network, 5, 3, seed)
    _, state = network(x, network.initial_state(3), timesteps=2)
    start = torch.zeros(5, 3, dtype=torch.bool)
    start[frame, 1] = True
    y, after = network(x, state, start, timesteps=2)
    untouched, kept = network(x, state, timesteps=2)
    fresh = network(x[frame:, 1:2], network.initial_state(1), timesteps=2)
    same((y[frame:, 1:2], tuple(s[1:2] for s in after)), fresh)
    for row in (0, 2):
        assert torch.equal(y[:, row], untouched[:, row])
        assert all(torch.equal(a[row], k[row]) for a, k in zip(after, kept, strict=True))
    assert torch.equal(y[:frame, 1], untouched[:frame, 1])


@few
@given(
    pixels=st.booleans(),
    stack=st.integers(2, 4),
    frames=st.integers(1, 6),
    seed=st.integers(0, 999),
)
@torch.no_grad()
def test_stacking_equals_a_stack_by_hand(pixels: bool, stack: int, frames: int, seed: int) -> None:
    network = cnn(3, stack=stack) if pixels else mlp(3, stack=stack)
    plain = cnn(3, stack=stack) if pixels else mlp(3, stack=stack)
    plain.stack, plain.input_shape = 1, network.stacked_shape()
    x, start = play(network, frames, 2, seed, 0.4)
    older, _ = play(network, stack - 1, 2, seed + 1)
    state = network.initial_state(2)
    state = (older.transpose(0, 1).contiguous(), *state[1:])

    pasts = [[older[a, b] for a in range(stack - 1)] for b in range(2)]
    stacks = torch.zeros(frames, 2, *network.stacked_shape(), dtype=x.dtype)
    for f in range(frames):
        for b in range(2):
            if start[f, b]:
                pasts[b] = [torch.zeros_like(x[0, 0])] * (stack - 1)
            pasts[b].append(x[f, b])
            stacks[f, b] = torch.cat(pasts[b][-stack:])
    y, after = network(x, state, start, timesteps=2)
    same((y, after[1:]), plain(stacks, state[1:], start, timesteps=2))
    for b in range(2):
        assert torch.equal(after[0][b], torch.stack(pasts[b][-(stack - 1) :]))


@torch.no_grad()
def test_stacked_history_that_is_not_finite_is_forgotten() -> None:
    network = mlp(0, stack=3)
    state = network.initial_state(1)
    state[0].fill_(float("nan"))
    x, _ = play(network, 2, 1, 0)
    y, after = network(x, state, torch.tensor([[True], [False]]))
    assert y.isfinite().all() and all(s.isfinite().all() for s in after)


def test_a_spiking_network_that_was_told_nothing_refuses_to_guess() -> None:
    network = mlp()
    network.timesteps = None
    x, state = torch.rand(1, 2, 3), network.initial_state(2)
    with pytest.raises(ValueError, match="pass timesteps="):
        network(x, state)
    network(x, state, timesteps=3, carry_membrane=True)


def test_calls_default_to_what_conversion_and_card_said(tmp_path: Path) -> None:
    ann = trace(seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), 0),
                FEATURES, pixels=False)  # fmt: skip
    x = torch.rand(4, 5, *FEATURES)
    ann(x, ())  # an ANN needs neither
    snn = convert(ann, Calibration(x), timesteps=3, carry_membrane=True)
    said = snn(x, snn.initial_state(5), timesteps=3, carry_membrane=True)[0]
    assert torch.equal(snn(x, snn.initial_state(5))[0], said)
    save(tmp_path / "T3", snn, 3, {"carry_membrane": True})
    loaded, _ = load(tmp_path / "T3")
    assert (loaded.timesteps, loaded.carry_membrane) == (3, True)
    assert torch.equal(loaded(x, loaded.initial_state(5))[0], snn(x, snn.initial_state(5))[0])
    stages = temporal_pruning(snn, [2, 1], lambda start: start.network, lambda *_: {})
    assert [stage.network.timesteps for stage in stages] == [2, 1]
    assert snn.timesteps == 3
