"""Event-driven inference gives torch's Q-values and membranes bit for bit."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from event_networks import MOST_TIMESTEPS, engine_of, networks, observations, plan_of
from graphs import node_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import cnn, mlp

from snn_rl.agents.loading import find_agent, zoo
from snn_rl.core.graph import Node
from snn_rl.core.network import Network
from snn_rl.core.operations import LIFNeurons
from snn_rl.core.state import leaves, mapped
from snn_rl.errors import EngineError
from snn_rl.inference.engine import EventEngine
from snn_rl.inference.interpreter import interpret
from snn_rl.inference.lowering import lower
from snn_rl.inference.reader import read
from snn_rl.runs import checkpoint

SPIKING = [name for name in zoo() if "/T" in name]


@torch.no_grad()
def assert_same(network: Network, engine: EventEngine, frames: Any, starts: Any) -> None:
    """Both run the frames; every Q-value and every membrane is the same."""
    state, theirs = engine.initial_state(frames.shape[1]), network.initial_state(frames.shape[1])
    for x, start in zip(frames, starts, strict=True):
        q, state = engine.step(x, state, start)
        y, theirs = network(
            torch.from_numpy(x)[None],
            theirs,
            torch.from_numpy(start)[None],
            timesteps=engine.timesteps,
            carry_membrane=engine.carry_membrane,
        )
        assert np.array_equal(q, y[0].numpy())
        for ours, tensor in zip(leaves(engine.to_arrays(state)), leaves(theirs), strict=True):
            assert np.array_equal(ours, tensor.numpy())


def starts(frames: int, batch: int, seed: int) -> Any:
    return np.random.default_rng(seed).random((frames, batch)) < 0.15


@pytest.mark.parametrize("name", SPIKING)
def test_shipped_agents_give_the_same_bits(name: str) -> None:
    folder = find_agent(f"zoo:{name}")
    network, card = checkpoint.load(folder)
    engine = EventEngine(lower(*read(folder)), card["timesteps"], card["carry_membrane"])
    assert_same(network, engine, observations(network, 100, 3, 1), starts(100, 3, 2))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    network=networks(),
    timesteps=st.integers(1, MOST_TIMESTEPS),
    carry=st.booleans(),
    batch=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_random_networks_give_the_same_bits(
    network: Network, timesteps: int, carry: bool, batch: int, seed: int
) -> None:
    engine = engine_of(network, timesteps, carry)
    frames = observations(network, 8, batch, seed)
    assert_same(network, engine, frames, starts(8, batch, seed))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(network=networks(), timesteps=st.integers(1, 3), seed=st.integers(0, 2**16))
def test_the_compiled_kernel_does_what_the_interpreter_does(
    network: Network, timesteps: int, seed: int
) -> None:
    plan = plan_of(network)
    engine = EventEngine(plan, timesteps)
    state, membranes = engine.initial_state(1), plan.resting
    for frame in observations(network, 3, 1, seed):
        stacked = np.concatenate([state.history, frame[:, None]], 1)
        q, state = engine.step(frame, state)
        expected, membranes = interpret(plan, stacked.ravel(), membranes, timesteps)
        assert np.array_equal(q[0], expected)
        assert np.array_equal(state.membranes[0], membranes)


def test_a_step_leaves_its_state_and_frames_as_they_are() -> None:
    network = cnn(stack=2)
    engine = engine_of(network, 2, True)
    first, second = observations(network, 2, 3, 0)
    _, state = engine.step(first, engine.initial_state(3))
    second.flags.writeable = False
    before = pickle.dumps((state, second))
    again = [engine.step(second, state, np.array([True, False, False]))[0] for _ in range(2)]
    assert pickle.dumps((state, second)) == before
    assert np.array_equal(again[0], again[1])


def test_what_was_seen_before_changes_nothing() -> None:
    network = cnn()
    engine, fresh = engine_of(network, 1, True), engine_of(network, 1, True)
    frames = observations(network, 10, 4, 0)
    for frame in frames:
        engine.step(frame, engine.initial_state(4))
    for batch in (2, 4, 6):
        x = np.tile(frames[0], (2, 1, 1, 1))[:batch]
        expected = fresh.step(x, fresh.initial_state(batch))[0]
        assert np.array_equal(engine.step(x, engine.initial_state(batch))[0], expected)


def test_threads_do_not_disturb_each_other() -> None:
    network = cnn()
    engine = engine_of(network, 2, True)

    def play(seed: int) -> Any:
        state, answers = engine.initial_state(2), []
        for frame in observations(network, 200, 2, seed):
            q, state = engine.step(frame, state)
            answers.append(q)
        return np.stack(answers)

    alone = [play(seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(play, range(6)))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_states_cross_to_torch_and_back() -> None:
    network = cnn(stack=2)
    engine = engine_of(network, 1, True)
    _, state = engine.step(observations(network, 1, 2, 0)[0], engine.initial_state(2))
    tensors = mapped(torch.from_numpy, engine.to_arrays(state))
    back = engine.from_arrays(tensors)
    assert np.array_equal(back.membranes, state.membranes)
    assert np.array_equal(back.history, state.history)
    smaller = mapped(lambda tensor: tensor[..., :-1], tensors)
    for foreign in (tensors._replace(history=None), smaller, tensors._replace(layers={}), ()):
        with pytest.raises(ValueError, match="shape"):
            engine.from_arrays(foreign)
    leaves(tensors)[1][0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        engine.from_arrays(tensors)


def test_spikes_are_counted_on_request() -> None:
    network = cnn()
    engine = engine_of(network, 3, True)
    frame = observations(network, 1, 2, 0)[0]
    counts = np.zeros((2, engine.plan.neurons), np.int32)
    engine.step(frame, engine.initial_state(2), counts=counts)
    theirs: dict[str, Any] = {}
    network(
        torch.from_numpy(frame)[None],
        network.initial_state(2),
        timesteps=3,
        on_spikes=lambda layer, spikes: theirs.update({layer: spikes[0].sum(0).flatten(1)}),
    )
    for layer in engine.plan.layers:
        expected = theirs[layer.name].detach().numpy()[:, layer.order]
        assert np.array_equal(counts[:, layer.neurons], expected)
    assert counts.sum() > 0


def test_an_engine_crosses_to_another_process() -> None:
    network = mlp()
    engine = engine_of(network, 2, False)
    copied = pickle.loads(pickle.dumps(engine))
    x = observations(network, 1, 2, 0)[0]
    assert (copied.timesteps, copied.carry_membrane) == (2, False)
    ours, theirs = (e.step(x, e.initial_state(2))[0] for e in (engine, copied))
    assert np.array_equal(ours, theirs)


def _refused(*nodes: Node) -> None:
    options = {"shape": [4], "pixels": False, "stack": 1}
    plan_of(Network([node_of("input", "input", (), options), *nodes]))


def test_what_the_engine_lacks_is_refused_by_name() -> None:
    fc = node_of("fc", "linear", ("input",), {"in_features": 4, "out_features": 4})
    kinds = {"threshold": "layer", "leak": "layer"}
    lif = node_of("spikes", "lif", ("fc",), {"shape": [4], **kinds})
    out = {"in_features": 4, "out_features": 2}
    with pytest.raises(EngineError, match=r"'rectify'.*relu"):
        _refused(fc, node_of("rectify", "relu", ("fc",)), node_of("q", "linear", ("rectify",), out))
    with pytest.raises(EngineError, match=r"'q'.*grid"):
        both = node_of("both", "add", ("spikes", "spikes"))
        _refused(fc, lif, both, node_of("q", "linear", ("both",), out))
    with pytest.raises(EngineError, match=r"'q'.*spikes"):
        _refused(fc, node_of("q", "linear", ("input",), out))
    with pytest.raises(EngineError, match=r"output 'spikes'"):
        _refused(fc, lif)


def test_unknown_options_and_too_many_timesteps_are_refused() -> None:
    network = mlp()
    with pytest.raises(EngineError, match="T from 1 to"):
        engine_of(network, 10**6, True)
    lif = network.nodes[2]

    class Refractory(LIFNeurons):
        def options(self) -> dict[str, Any]:
            return super().options() | {"refractory": 3}

    kept = lif.operation
    assert isinstance(kept, LIFNeurons)
    other = Refractory(kept.neurons, kept.threshold, kept.leak)
    network.nodes[2] = replace(lif, operation=other)
    with pytest.raises(EngineError, match=r"'lif1'.*refractory"):
        plan_of(network)
