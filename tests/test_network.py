"""Networks over frames x timesteps: state, resets, batching, read-out, hooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor

from snn_rl.errors import SnnRlError
from snn_rl.graph import Node, node_from_dict
from snn_rl.grid import snap
from snn_rl.network import Network, State
from snn_rl.stacking import PIXEL_UNIT

few = settings(max_examples=25, deadline=None, derandomize=True)

LAYER = {"threshold": "layer", "leak": "neuron"}


def mlp(seed: int = 0, *, stack: int = 1, gain: float = 2.0) -> Network:
    """3 features -> 8 -> 5 spiking neurons -> 2 outputs."""
    nodes = [
        Node("input", "input", (), {"shape": [3], "pixels": False, "stack": stack}),
        Node("fc1", "linear", ("input",), {"in_features": 3 * stack, "out_features": 8}),
        Node("lif1", "lif", ("fc1",), {"shape": [8], **LAYER}),
        Node("fc2", "linear", ("lif1",), {"in_features": 8, "out_features": 5}),
        Node("lif2", "lif", ("fc2",), {"shape": [5], **LAYER}),
        Node("out", "linear", ("lif2",), {"in_features": 5, "out_features": 2}),
    ]
    return initialised(nodes, seed, gain)


def cnn(seed: int = 0, *, stack: int = 1, gain: float = 3.0) -> Network:
    """2x6x6 pixels -> conv 4 -> conv 3 -> 2 outputs."""
    conv = {"kernel_size": 3, "stride": 1}
    nodes = [
        Node("input", "input", (), {"shape": [2, 6, 6], "pixels": True, "stack": stack}),
        Node("conv1", "conv", ("input",), {"in_channels": 2 * stack, "out_channels": 4, **conv}),
        Node("lif1", "lif", ("conv1",), {"shape": [4, 4, 4], **LAYER}),
        Node("conv2", "conv", ("lif1",), {"in_channels": 4, "out_channels": 3, **conv}),
        Node("lif2", "lif", ("conv2",), {"shape": [3, 2, 2], **LAYER}),
        Node("flat", "flatten", ("lif2",)),
        Node("out", "linear", ("flat",), {"in_features": 12, "out_features": 2}),
    ]
    return initialised(nodes, seed, gain)


def initialised(nodes: list[Node], seed: int, gain: float) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(nodes)
    for layer in network.spiking.values():
        layer.spread_leak(0.05, 0.95)
        layer.threshold.data.fill_(0.7)
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            parameter.data *= gain
    snap(network, 8)
    return network.eval()


def play(network: Network, frames: int, batch: int, seed: int, resets: float = 0.2) -> Any:
    """Random observations and episode starts."""
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, batch, *network.input_shape)
    if network.pixels:
        x = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    else:
        x = torch.randn(shape, generator=generator)
    return x, torch.rand(frames, batch, generator=generator) < resets


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, 4)}, r"input is \(2, 3, 4\); expected \(frames, batch, 3\)"),
        ({"x": torch.zeros(3)}, r"input is \(3,\); expected \(frames, batch, 3\)"),
        ({"x": torch.zeros(0, 3, 3)}, r"0 frames; expected at least 1"),
        ({"x": torch.zeros(2, 3, 3, dtype=torch.uint8)}, r"torch.uint8; expected torch.float32"),
        ({"x": torch.zeros(2, 3, 3, dtype=torch.int64)}, r"torch.int64; expected torch.float32"),
        ({"x": torch.zeros(2, 3, 3).double()}, r"torch.float64; expected torch.float32"),
        ({"x": torch.zeros(2, 4, 3)}, r"\(3, 8\).*expected.*\(4, 8\).*batch of 4"),
        ({"state": ()}, r"shape \[\]; expected \[\(3, 8\), \(3, 5\)\]"),
        ({"state": (torch.zeros(3, 5), torch.zeros(3, 8))}, r"\(3, 5\), \(3, 8\)\]; expected"),
        ({"start": torch.zeros(3, 2, dtype=torch.bool)}, r"\(3, 2\); expected \(2, 3\)"),
        ({"start": torch.zeros(2, 3)}, r"torch.float32; expected torch.bool"),
        ({"timesteps": 0}, r"at least 1, not 0"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    network = mlp()
    given: dict[str, Any] = {
        "x": torch.zeros(2, 3, 3),
        "state": network.initial_state(3),
        "start": None,
        "timesteps": 1,
    } | change
    with pytest.raises(ValueError, match=message):
        network(given["x"], given["state"], given["start"], timesteps=given["timesteps"])


def test_pixels_are_uint8() -> None:
    with pytest.raises(ValueError, match=r"torch.float32; expected torch.uint8"):
        cnn()(torch.zeros(1, 1, 2, 6, 6), cnn().initial_state(1))


@torch.no_grad()
def test_membranes_stay_bounded_over_27000_frames() -> None:
    """Numerical contract, 6: leaks below 1 leave no membrane to grow without a floor."""
    network = mlp(4)
    generator = torch.Generator().manual_seed(0)
    state = network.initial_state(2)
    lowest = highest = 0.0
    for _ in range(27):
        x = torch.randn(1000, 2, 3, generator=generator) - 0.3
        y, state = network(x, state)
        assert y.isfinite().all()
        lowest = min(lowest, *(float(s.min()) for s in state))
        highest = max(highest, *(float(s.max()) for s in state))
    bound = 0.0
    for weighted in ("fc1", "fc2"):
        layer: Any = network.layers[weighted]
        largest = 5.0 if weighted == "fc1" else 1.0
        bound = max(bound, float((layer.weight.abs().sum(1) * largest + layer.bias.abs()).max()))
    assert -bound / (1 - 0.95) < lowest and highest < bound / (1 - 0.95)
    assert highest > 0.1


@torch.no_grad()
def test_hooks_see_every_layer_in_order() -> None:
    network = cnn(1)
    x, start = play(network, 3, 2, 0)
    seen: list[tuple[Any, ...]] = []
    network(
        x,
        network.initial_state(2),
        start,
        timesteps=4,
        on_current=lambda name, i, u, r: seen.append((name, tuple(i.shape), tuple(u.shape), r)),
        on_spikes=lambda name, o: seen.append((name, tuple(o.shape), set(o.unique().tolist()))),
    )
    assert [entry[:2] for entry in seen] == [
        ("lif1", (3, 1, 2, 4, 4, 4)),
        ("lif1", (3, 4, 2, 4, 4, 4)),
        ("lif2", (3, 4, 2, 3, 2, 2)),
        ("lif2", (3, 4, 2, 3, 2, 2)),
    ]
    assert seen[0][2] == (2, 4, 4, 4) and seen[0][3] is start
    assert seen[1][2] <= {0.0, 1.0}


@torch.no_grad()
def test_current_hook_may_change_the_threshold() -> None:
    network = mlp(1)
    x, _ = play(network, 2, 2, 0)

    def silence(name: str, *_: Any) -> None:
        network.spiking[name].threshold.data.fill_(1e6)

    rates: list[float] = []
    network(
        x,
        network.initial_state(2),
        on_current=silence,
        on_spikes=lambda _, o: rates.append(float(o.sum())),
    )
    assert rates == [0.0, 0.0]


def test_dropout_mask_is_held_for_all_timesteps_of_a_frame() -> None:
    nodes = [
        Node("input", "input", (), {"shape": [64], "pixels": False, "stack": 1}),
        Node("drop", "dropout", ("input",), {"p": 0.5}),
        Node("fc", "linear", ("drop",), {"in_features": 64, "out_features": 64}),
        Node("lif", "lif", ("fc",), {"shape": [64], **LAYER}),
        Node("drop2", "dropout", ("lif",), {"p": 0.5}),
        Node("fc2", "linear", ("drop2",), {"in_features": 64, "out_features": 64}),
        Node("lif2", "lif", ("fc2",), {"shape": [64], **LAYER}),
        Node("out", "linear", ("lif2",), {"in_features": 64, "out_features": 2}),
    ]
    network = Network(nodes)
    fc2: Any = network.layers["fc2"]
    with torch.no_grad():
        fc2.weight.copy_(torch.eye(64))
        fc2.bias.zero_()
        network.spiking["lif"].threshold.fill_(1e-3)
        fc: Any = network.layers["fc"]
        fc.weight.zero_()
        fc.bias.fill_(1.0)  # every neuron of "lif" fires at every timestep
    currents: dict[str, Tensor] = {}

    def note(name: str, current: Tensor, *_: Any) -> None:
        currents[name] = current.detach()

    x = torch.ones(2, 3, 64)
    network.train()(x, network.initial_state(3), timesteps=4, on_current=note)
    dropped = currents["lif2"]
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert bool((dropped == dropped[:, :1]).all())
    assert not torch.equal(dropped[0], dropped[1]) and not torch.equal(
        dropped[:, :, 0], dropped[:, :, 1]
    )
    network.eval()(x, network.initial_state(3), timesteps=4, on_current=note)
    assert set(currents["lif2"].unique().tolist()) == {1.0}


def test_network_moves_to_float64_and_back() -> None:
    network = mlp(1)
    x, _ = play(network, 2, 2, 0)
    want, _ = network(x, network.initial_state(2), timesteps=2)
    network.double()
    got, state = network(x.double(), network.initial_state(2), timesteps=2)
    assert got.dtype == state[0].dtype == torch.float64
    assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_parameter_through_time() -> None:
    """Each loss depends on frames long past, by the membranes alone."""
    network = mlp(1)
    x, _ = play(network, 6, 4, 0)
    y, _ = network(x, network.initial_state(4), timesteps=2)
    y.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name
    observed = x.clone().requires_grad_()
    y, _ = network(observed, network.initial_state(4), timesteps=1)
    y[-1].sum().backward()
    assert observed.grad is not None and bool(observed.grad[0].any())


def test_clone_is_independent_and_constrain_reaches_every_layer() -> None:
    network = mlp(1)
    copy = network.clone()
    with torch.no_grad():
        for layer in copy.spiking.values():
            layer.threshold.fill_(-1)
            layer.leak.fill_(2)
    copy.constrain()
    for name, layer in copy.spiking.items():
        assert bool((layer.threshold > 0).all()) and bool((layer.leak == 1).all())
        assert float(network.spiking[name].threshold.detach().min()) == pytest.approx(0.7)


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [{"name": "a", "op": "relu", "inputs": [], "options": {}}],
        [{"name": "input", "op": "input", "inputs": [], "options": {}}],
        [{"name": "input", "op": "fly", "inputs": [], "options": {}}],
        [{"name": "input", "op": "input"}],
        [
            {"name": "input", "op": "input", "inputs": [], "options": {}},
            {"name": "sum", "op": "add", "inputs": ["input"], "options": {}},
        ],
        [
            {"name": "input", "op": "input", "inputs": [], "options": {}},
            {"name": "a", "op": "relu", "inputs": ["b"], "options": {}},
        ],
    ],
)
def test_graphs_that_make_no_sense_are_refused(nodes: list[Any]) -> None:
    with pytest.raises(SnnRlError, match="layer"):
        Network([node_from_dict(node) for node in nodes])
