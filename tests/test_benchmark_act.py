"""`snn-rl benchmark act` and the models that race against the engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import snn_rl_command
from untrained import untrained_ann

from snn_rl.agents.agent import Agent
from snn_rl.agents.bench import onnx_ann, runtimes
from snn_rl.agents.bench.act import act_times, record
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.loading import load_agent
from snn_rl.core.stacking import stack_frames
from snn_rl.errors import SnnRlError

T1, ANN = "zoo:CartPole-v1/T1", "zoo:CartPole-v1/ann"
OPTIONS = ["--agent", T1, "--rival", ANN, "--frames", "60", "--json"]


def test_every_contender_is_timed(tmp_path: Path) -> None:
    done = snn_rl_command("benchmark", "act", *OPTIONS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {row["contender"]: row for row in found["rows"]}
    for name in (f"{T1}, event, act(frame)", f"{T1}, torch, act(frame)", f"{ANN}, torch frozen"):
        assert 0 < rows[name]["median_us"] <= rows[name]["p99_us"]
    assert f"{T1}, event, act(first frame)" in rows
    assert found["processor_flags"]


def test_rivals_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(SnnRlError, match="is not an ANN"):
        act_times([T1], ["zoo:CartPole-v1/T3"], 60)
    with pytest.raises(SnnRlError, match="does not see the frames"):
        act_times([T1], ["zoo:PongNoFrameskip-v4/ann"], 60)


def test_recorded_frames_are_those_of_the_agents_play() -> None:
    agent = load_agent(T1)
    frames = record(agent, 70)
    assert frames.shape == (70, 4)
    assert np.array_equal(frames, record(agent, 70))


def test_runtimes_are_given_what_the_network_stacks() -> None:
    agent = untrained_ann("PixelCartPole-v1", stack=3)
    network = agent.policy.network
    seen = np.random.default_rng(0).integers(256, size=(5, *network.input_shape), dtype=np.uint8)
    frames = torch.from_numpy(seen)[:, None]
    history = network.initial_state(1).history
    assert history is not None
    wanted, _ = stack_frames(frames, history, None, network.offset)
    given = [onnx_ann.as_input(network, x) for x in runtimes.stacked(seen, network.stack)]
    np.testing.assert_array_equal(np.concatenate(given), wanted[:, 0].numpy())


def test_screens_and_a_busy_game_are_raced_where_there_are_pixels() -> None:
    found = act_times(["zoo:PongNoFrameskip-v4/T1"], [], 60)
    names = " ".join(row["contender"] for row in found["rows"])
    for what in ("screen", "BeamRiderNoFrameskip-v4", "all pixels changed", "first frame"):
        assert what in names


@pytest.mark.parametrize("name", ["PongNoFrameskip-v4/paper-ann", "CartPole-v1/ann"])
def test_the_onnx_rival_computes_the_ann(name: str) -> None:
    if not onnx_ann.available():
        pytest.skip("ONNX Runtime is not installed")
    agent: Agent = load_agent(f"zoo:{name}")
    network = agent.policy.network
    generator = np.random.default_rng(0)
    shape = network.stacked_shape()
    x = generator.integers(0, 256, shape).astype(np.uint8)
    if not network.pixels:
        x = generator.normal(size=shape).astype(np.float32)
    taken = onnx_ann.as_input(network, x)
    values = runtimes.runs(onnx_ann.ann_model(network), network.nodes[0].name)(taken)
    with torch.no_grad():
        plain = network.on_stacks()
        expected, _ = plain(torch.from_numpy(taken)[None], plain.initial_state(1))
    assert np.allclose(values, expected[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["PixelCartPole-v1/ann", "CartPole-v1/ann"])
def test_a_model_plays_as_its_agent_does(name: str) -> None:
    if not onnx_ann.available():
        pytest.skip("ONNX Runtime is not installed")
    agent = load_agent(f"zoo:{name}")
    network = agent.policy.network
    models = runtimes.ann_models(network, record(agent, 40))
    played = [
        evaluate(actor, agent.env_id, agent.pipeline, [1, 2, 3], max_frames=60)
        for actor in (
            agent.actor,
            runtimes.ModelActor(network, models["ONNX Runtime fp32"]),
            runtimes.ModelActor(network, models["ONNX Runtime int8"]),
        )
    ]
    torchs, plain, small = played
    assert plain.rewards == torchs.rewards
    assert all(0 < length <= 60 for length in small.lengths)
