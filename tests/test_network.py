"""Networks over frames x timesteps: state, resets, batching, read-out, hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import node_of
from networks import LAYER, cnn, mlp, play
from numpy.testing import assert_allclose
from torch import Tensor

from snn_rl.core.graph import node_from_dict
from snn_rl.core.network import Network, State
from snn_rl.core.state import leaves
from snn_rl.errors import SnnRlError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, 4)}, r"input is \(2, 3, 4\); expected \(frames, batch, 3\)"),
        ({"x": torch.zeros(3)}, r"input is \(3,\); expected \(frames, batch, 3\)"),
        ({"x": torch.zeros(0, 3, 3)}, r"0 frames; expected at least 1"),
        ({"x": torch.zeros(2, 3, 3, dtype=torch.uint8)}, r"torch.uint8; expected torch.float32"),
        ({"x": torch.zeros(2, 3, 3, dtype=torch.int64)}, r"torch.int64; expected torch.float32"),
        ({"x": torch.zeros(2, 3, 3).double()}, r"torch.float64; expected torch.float32"),
        ({"x": torch.zeros(2, 4, 3)}, r"\(3, 8\).*expected.*\(4, 8\).*initial_state\(4\)"),
        ({"state": State(None, {})}, r"layers={}.*expected.*\(3, 8\).*\(3, 5\)"),
        ({"state": (torch.zeros(3, 5), torch.zeros(3, 8))}, r"\(\(3, 5\), \(3, 8\)\); expected"),
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
        lowest = min(lowest, *(float(s.min()) for s in leaves(state)))
        highest = max(highest, *(float(s.max()) for s in leaves(state)))
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
        on_current=lambda name, i, before, r: seen.append(
            (name, tuple(i.shape), tuple(before.membrane.shape), r)
        ),
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
        node_of("input", "input", (), {"shape": [64], "pixels": False, "stack": 1}),
        node_of("drop", "dropout", ("input",), {"p": 0.5}),
        node_of("fc", "linear", ("drop",), {"in_features": 64, "out_features": 64}),
        node_of("lif", "lif", ("fc",), {"shape": [64], **LAYER}),
        node_of("drop2", "dropout", ("lif",), {"p": 0.5}),
        node_of("fc2", "linear", ("drop2",), {"in_features": 64, "out_features": 64}),
        node_of("lif2", "lif", ("fc2",), {"shape": [64], **LAYER}),
        node_of("out", "linear", ("lif2",), {"in_features": 64, "out_features": 2}),
    ]
    network = Network(nodes)
    network.carry_membrane = True
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
    assert got.dtype == leaves(state)[0].dtype == torch.float64
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
