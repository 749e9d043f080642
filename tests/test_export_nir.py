"""NIR: neurons by their time constants, the missing soft reset said, the same play in Norse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from modules import seeded
from runtimes import runtime_or_skip
from test_export_onnx import residual

import snn_rl
from snn_rl.agents.agent import Agent
from snn_rl.agents.exchange.recording import exportable
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import mlp
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network
from snn_rl.core.state import leaves
from snn_rl.envs.observation import ObservationPipeline
from snn_rl.errors import SnnRlError
from snn_rl.exchange.golden import Trace, replay
from snn_rl.exchange.nir_files import CLIP, DT, export_nir
from snn_rl.exchange.norse_runtime import norse_step

nir = runtime_or_skip("nir")


def agent_of(network: Network, timesteps: int = 1) -> Agent:
    card = {"stage": "T", "environment": {"env_id": "CartPole-v1", "num_actions": 2}}
    shape = network.input_shape
    kind: Any = "image" if network.pixels else "vector"
    return Agent(Policy(network, timesteps), ObservationPipeline(kind, shape), card)


def seeing_from(network: Network, offset: int) -> Network:
    """The network for pixels that count from grey level `offset`."""
    first, *others = network.nodes
    seen: Any = first.operation
    shifted = Network([replace(first, operation=replace(seen, offset=offset)), *others])
    shifted.load_state_dict(network.state_dict())
    return shifted


def subtracting(graph: Any, x: Any, frames: int, timesteps: int) -> Any:
    """NIR run by plain NumPy and torch with a reset by subtraction; the outputs' means."""
    membranes: dict[str, Any] = {}
    found = []
    for frame in range(frames):
        outputs = []
        for _ in range(timesteps):
            values: dict[str, Any] = {"input": x[frame].astype(np.float64)}
            remaining = [name for name in graph.nodes if name != "input"]
            while remaining:
                for name in list(remaining):
                    sources = [a for a, b in graph.edges if b == name]
                    if all(source in values for source in sources):
                        total = sum(values[source] for source in sources)
                        values[name] = run(graph.nodes[name], name, total, membranes)
                        remaining.remove(name)
            outputs.append(values["output"])
        found.append(np.mean(outputs, 0))
    return np.stack(found)


def run(node: Any, name: str, x: Any, membranes: dict[str, Any]) -> Any:
    tensor = torch.from_numpy(np.asarray(x))[None]
    match type(node).__name__:
        case "Affine":
            return node.weight.astype(np.float64) @ x + node.bias
        case "Conv2d":
            weight, bias = (torch.from_numpy(a).double() for a in (node.weight, node.bias))
            stride, padding = (tuple(map(int, p)) for p in (node.stride, node.padding))
            result = torch.nn.functional.conv2d(tensor, weight, bias, stride, padding)
            return result[0].numpy()
        case "SumPool2d":
            kernel, stride = (tuple(map(int, p)) for p in (node.kernel_size, node.stride))
            area = kernel[0] * kernel[1]
            return (torch.nn.functional.avg_pool2d(tensor, kernel, stride) * area)[0].numpy()
        case "Scale":
            return x * node.scale
        case "Flatten":
            return x.flatten()
        case "CubaLIF":
            before = membranes.get(name, 0.0)
            v = before + DT / node.tau_mem.astype(np.float64) * (node.r * x - before)
            spikes = v > node.v_threshold
            membranes[name] = v - spikes * node.v_threshold
            return spikes.astype(np.float64)
        case _:
            return x


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("make", [networks.mlp, networks.cnn, residual])
def test_the_graph_says_what_the_network_computes(
    make: Any, timesteps: int, tmp_path: Path
) -> None:
    network = residual(timesteps) if make is residual else make()
    export_nir(exportable(agent_of(network, timesteps)), tmp_path / "a.nir")
    graph = nir.read(tmp_path / "a.nir")
    x, _ = networks.play(network, 12, 1, seed=1)
    start = network.initial_state(1)
    expected, _ = network(x, start, timesteps=timesteps, carry_membrane=True)
    found = subtracting(graph, x[:, 0].numpy(), 12, timesteps)
    # A membrane that comes to lie on its threshold by rounding may spike elsewhere.
    close = np.isclose(found, expected[:, 0].detach().numpy(), atol=1e-3).all(1)
    assert close.mean() > 0.9
    neurons = [node for node in graph.nodes.values() if isinstance(node, nir.CubaLIF)]
    assert [node.v_threshold.shape for node in neurons] == [
        layer.shape for layer in network.spiking.values()
    ]


def test_pixels_count_as_the_environment_gives_them(tmp_path: Path) -> None:
    network = networks.cnn()
    shifted = seeing_from(network, 87)
    export_nir(exportable(agent_of(shifted)), tmp_path / "a.nir")
    x, _ = networks.play(shifted, 8, 1, seed=2)
    expected, _ = shifted(x, shifted.initial_state(1), timesteps=1, carry_membrane=True)
    found = subtracting(nir.read(tmp_path / "a.nir"), x[:, 0].numpy(), 8, 1)
    np.testing.assert_allclose(found, expected[:, 0].detach().numpy(), atol=1e-3)


def test_leaks_without_a_time_constant_are_counted(tmp_path: Path) -> None:
    network = networks.mlp()
    leaks: Any = network.layers["lif1"]
    leaks.leak.data[:4] = torch.tensor([0.0, 1.0, 1.0, 0.5])
    remarks = export_nir(exportable(agent_of(network)), tmp_path / "a.nir")
    assert "reset by subtraction" in remarks[0] and remarks[1].startswith("2 leaks of exactly 1")
    graph = nir.read(tmp_path / "a.nir")
    node = graph.nodes["lif1"]
    lost = DT / node.tau_mem[:4].astype(np.float64)
    np.testing.assert_array_equal(lost, [1, CLIP, CLIP, 0.5])
    tau, r = (array[1:3].astype(np.float32) for array in (node.tau_mem, node.r))
    v, current = np.random.default_rng(0).normal(size=(2, 1000, 2)).astype(np.float32)
    v[:500] *= 1000
    current[::3] = 0
    read = v + np.float32(DT) * (1 / tau) * (r * current - v)  # as Norse computes it
    np.testing.assert_array_equal(read, v + current)
    assert np.isfinite(node.r).all() and (node.tau_syn == DT).all()
    assert "subtraction" in str(graph.metadata["reset"])
    assert len(export_nir(exportable(agent_of(networks.cnn())), tmp_path / "b.nir")) == 1


def test_refusals(tmp_path: Path) -> None:
    ann = snn_rl.load_agent("zoo:CartPole-v1/ann")
    with pytest.raises(SnnRlError, match="stage ann is no spiking network"):
        snn_rl.export(ann, tmp_path / "a.nir", "nir")
    padded = seeing_from(residual(1), 9)
    with pytest.raises(SnnRlError, match="'conv1' pads pixels"):
        export_nir(exportable(agent_of(padded)), tmp_path / "a.nir")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "zoo:CartPole-v1/T5",
        "zoo:PositionOnlyCartPole-v1/T1",
        "zoo:PongNoFrameskip-v4/T1",
        "zoo:PongNoFrameskip-v4/T1-no-carry",
    ],
)
def test_norse_acts_alike(name: str, tmp_path: Path) -> None:
    runtime_or_skip("norse")
    done = snn_rl.export(snn_rl.load_agent(name), tmp_path / "a.nir", "nir", check=True, frames=60)
    (verdict,) = done.verdicts
    assert "60 of 60 frames with the same action" in verdict or "exact: 60" in verdict
    assert [file.name for file in done.files] == ["a.nir", "a.trace.npz"]


@torch.no_grad()
def played(network: Network, frames: int) -> Trace:
    """What torch makes of random frames and of several episodes."""
    x, starts = networks.play(network, frames, 1, seed=3, resets=0.05)
    starts[0] = True
    state = network.initial_state(1)
    begun = [t.numpy() for t in leaves(state)]
    q, state = network(x, state, starts, timesteps=1, carry_membrane=True)
    names = exportable(agent_of(network)).one_frame().state_names
    before, after = (
        dict(zip(names, arrays, strict=True))
        for arrays in (begun, [t.numpy() for t in leaves(state)])
    )
    return Trace(x[:, 0].numpy(), starts[:, 0].numpy(), q[:, 0].numpy(), before, after)


@pytest.mark.parametrize("make", [networks.mlp, networks.cnn])
def test_norse_sees_stacked_frames(make: Any, tmp_path: Path) -> None:
    runtime_or_skip("norse")
    network = make(stack=3)
    agent = agent_of(network)
    export_nir(exportable(agent), tmp_path / "a.nir")
    found = replay(
        played(network, 200), norse_step(tmp_path / "a.nir", exportable(agent).one_frame())
    )
    assert found.same_actions >= 198 and found.state_error < 0.01, str(found)


@torch.no_grad()
def test_spikingjelly_acts_alike(tmp_path: Path) -> None:
    """Where each layer has one threshold and leak, which is all that it reads."""
    runtime_or_skip("spikingjelly")
    from spikingjelly.activation_based import neuron, nir_exchange

    ann = trace(seeded(lambda: mlp(4, [32, 16], 2), 0), (4,), pixels=False)
    x = torch.randn(200, 1, 4, generator=torch.Generator().manual_seed(0))
    options = NeuronOptions(leak_low=0.5, leak_high=0.5)
    network = convert(ann, Calibration(x), timesteps=3, carry_membrane=True, options=options)
    export_nir(exportable(agent_of(network.eval(), 3)), tmp_path / "a.nir")
    module = nir_exchange.import_from_nir(nir.read(tmp_path / "a.nir"), dt=DT)
    for layer in module.modules():
        if isinstance(layer, neuron.CUBALIFNode):
            layer.v_reset = None  # its word for a reset by subtraction
    state, found = None, []
    for frame in x:
        outputs = []
        for _ in range(3):
            y, state = module(frame, state)
            outputs.append(y)
        found.append(torch.stack(outputs).mean(0))
    expected, _ = network(x, network.initial_state(1))
    torch.testing.assert_close(torch.stack(found), expected, rtol=0, atol=1e-5)


def test_the_command(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    agent = ("--agent", "zoo:CartPole-v1/T1", "--out", "a.nir", "--frames", "20")
    status, out, err = call("export", "--to", "nir", *agent, "--json")
    assert status == 0, err
    assert json.loads(out)["remarks"][0] in err and "reset by subtraction" in err
