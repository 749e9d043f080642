"""ONNX and torch.export: the engine's bits, explicit state, any batch, a golden trace."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from runtimes import runtime_or_skip
from torch import nn

import snn_rl
from snn_rl.agents.exchange.recording import exportable, record
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.grid import snap
from snn_rl.core.network import Network
from snn_rl.core.state import leaves
from snn_rl.errors import SnnRlError
from snn_rl.exchange import extras
from snn_rl.exchange.golden import replay, torch_step
from snn_rl.exchange.one_frame import OneFrame

onnx = runtime_or_skip("onnx")
runtime = runtime_or_skip("onnxruntime")
CARTPOLE = "zoo:CartPole-v1/T5"


class Residual(nn.Module):
    """Every operation that a spiking network can have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.drop = nn.AvgPool2d(3), nn.Dropout(0.5)
        self.out = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv1(x / 255)))
        x = torch.relu(self.conv2(x) + x)
        result: torch.Tensor = self.out(self.drop(self.pool(x)).flatten(1))
        return result


def residual(timesteps: int) -> Network:
    torch.manual_seed(0)
    ann = trace(Residual().eval(), (2, 6, 6), pixels=True)
    frames = torch.randint(0, 256, (8, 4, 2, 6, 6), dtype=torch.uint8)
    options = NeuronOptions(leak="neuron", leak_low=0.2, leak_high=0.9)
    network = convert(
        ann, Calibration(frames), timesteps=timesteps, carry_membrane=True, options=options
    )
    snap(network, timesteps)
    return network.eval()


@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("make", [networks.mlp, networks.cnn, "stacked", residual])
def test_one_frame_gives_the_engines_bits(make: Any, timesteps: int, carry: bool) -> None:
    if make == "stacked":
        network = networks.cnn(stack=3)
    else:
        network = residual(timesteps) if make is residual else make()
    plain = OneFrame(network, timesteps, carry=carry)
    x, start = networks.play(network, 12, 3, seed=1, resets=0.0)
    start[0] = True
    expected, _ = network(
        x, network.initial_state(3), start, timesteps=timesteps, carry_membrane=carry
    )
    state, found = plain.example(3)[1], []
    for frame in x:
        with torch.no_grad():
            q, state = plain(frame, state)
        found.append(q)
    assert torch.equal(torch.stack(found), expected)
    assert len(plain.state_names) == len(state)


def session(path: Path) -> Any:
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", ["zoo:CartPole-v1/T3", "zoo:PongNoFrameskip-v4/T1"])
def test_a_shipped_agent_is_exact_in_both_runtimes(name: str, tmp_path: Path) -> None:
    done = snn_rl.export(snn_rl.load_agent(name), tmp_path / "a.onnx", check=True, frames=60)
    assert [verdict.split(": ", 1) for verdict in done.verdicts] == [
        [kind, "exact: 60 frames with the same Q-values, bit for bit"]
        for kind in ("ONNX Runtime", "torch.export")
    ]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "a.pt2", "a.trace.npz"]


def test_a_stacked_ann_says_how_far_off_it_is(tmp_path: Path) -> None:
    agent = snn_rl.load_agent("zoo:PongNoFrameskip-v4/teacher2")
    done = snn_rl.export(agent, tmp_path / "a.onnx", check=True, frames=20)
    assert all("20 frames with the same" in verdict for verdict in done.verdicts)
    history = session(tmp_path / "a.onnx").get_inputs()[1]
    assert (history.name, history.type) == ("history", "tensor(uint8)")


def test_the_file_explains_itself(tmp_path: Path) -> None:
    snn_rl.export(snn_rl.load_agent(CARTPOLE), tmp_path / "a.onnx", frames=5)
    opened = session(tmp_path / "a.onnx")
    inputs = [(value.name, value.shape) for value in opened.get_inputs()]
    outputs = [value.name for value in opened.get_outputs()]
    assert inputs[0] == ("frame", ["batch", 4])
    assert [name for name, _ in inputs[1:]] == ["membrane_hidden1", "membrane_hidden2"]
    assert outputs == ["q", "membrane_hidden1_next", "membrane_hidden2_next"]
    said = opened.get_modelmeta().custom_metadata_map
    assert said["environment"] == "CartPole-v1" and said["timesteps"] == "5"
    products = [n for n in onnx.load(tmp_path / "a.onnx").graph.node if n.op_type in GEMM]
    # The first layer once, the second at every timestep, the read-out once.
    assert len(products) == 1 + 5 + 1


GEMM = ("Gemm", "MatMul")


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_batch_is_free(batch: int, tmp_path: Path) -> None:
    agent = snn_rl.load_agent(CARTPOLE)
    snn_rl.export(agent, tmp_path / "a.onnx", frames=5)
    opened = session(tmp_path / "a.onnx")
    names = exportable(agent).one_frame().state_names
    state = [t.numpy() for t in leaves(agent.policy.initial_state(batch))]
    agent.reset()
    for seed in range(20):
        frame = np.random.default_rng(seed).normal(0, 0.3, (batch, 4)).astype(np.float32)
        q, *state = opened.run(None, {"frame": frame, **dict(zip(names, state, strict=True))})
        np.testing.assert_array_equal(q, agent.q_values(frame))


def test_a_trace_is_real_play_and_notices_another_agent(tmp_path: Path) -> None:
    agent = snn_rl.load_agent("zoo:PositionOnlyCartPole-v1/T1")
    golden = record(agent, 700)
    assert golden.starts[0] and golden.starts.sum() == 2, "an episode has 500 frames at most"
    golden.save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz", allow_pickle=False) as kept:
        np.testing.assert_array_equal(kept["frames"], golden.frames)
        np.testing.assert_array_equal(kept["q"], golden.q)
        assert {name for name in kept if name.startswith("state.")} == {
            "state.membrane_hidden1",
            "state.membrane_hidden2",
        }
    network = exportable(agent).one_frame()
    assert replay(golden, torch_step(network)).exact
    other = exportable(snn_rl.load_agent("zoo:PositionOnlyCartPole-v1/T3")).one_frame()
    found = replay(golden, torch_step(other))
    assert not found.exact and found.error > 0 and found.same_actions < 700
    assert str(found).startswith("approximate: ")


def test_what_is_no_number_is_never_exact() -> None:
    agent = snn_rl.load_agent("zoo:CartPole-v1/T1")

    def broken(frame: NDArray[Any], state: Any) -> Any:
        return np.full((1, 2), np.nan, np.float32), state

    found = replay(record(agent, 3), broken)
    assert found.error == float("inf") and not found.exact


def test_refusals(tmp_path: Path) -> None:
    agent = snn_rl.load_agent(CARTPOLE)
    with pytest.raises(SnnRlError, match=r"should end in \.onnx"):
        snn_rl.export(agent, tmp_path / "a.bin")
    with pytest.raises(SnnRlError, match="no export to 'tflite'"):
        snn_rl.export(agent, tmp_path / "a.tflite", "tflite")  # type: ignore[arg-type]
    with pytest.raises(SnnRlError, match=r"pip install 'snn-rl\[onnx\]'"):
        extras.extra("no_such_module", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_cannot_be_made_writes_nothing(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    order = ("export", "--agent", CARTPOLE, "--frames", "20")
    code, out, err = call(*order, "--out", "a.onnx", "--check")
    assert (code, out) == (2, "") and "pip install 'snn-rl[onnx]'" in err
    assert not list(tmp_path.iterdir())
    assert call(*order, "--out", "a.onnx")[0] == 0  # without a check none is needed
    monkeypatch.setitem(sys.modules, "norse.torch", None)
    code, out, err = call(*order, "--to", "nir", "--out", "a.nir", "--check")
    assert (code, out) == (2, "") and "pip install --no-deps norse nirtorch" in err
    assert not (tmp_path / "a.nir").exists()


def test_the_command(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    arguments = ("export", "--agent", "zoo:CartPole-v1/T1", "--out", "a.onnx", "--frames", "20")
    status, out, err = call(*arguments, "--check")
    assert status == 0 and out.split() == ["a.onnx", "a.pt2", "a.trace.npz"]
    assert "ONNX Runtime: exact: 20 frames" in err
    status, out, _ = call(*arguments, "--json")
    assert json.loads(out)["verdicts"] == [
        "exact, since weights lie on the grid (--check replays the trace)"
    ]
