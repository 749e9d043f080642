"""An agent acts the same whatever engine runs it, and needs no torch for the event-driven one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import snn_rl_command

from snn_rl.agents.agent import Agent
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.loading import find_agent, load_agent
from snn_rl.agents.lowered import fastest
from snn_rl.agents.seeds import validation_seeds
from snn_rl.core.grid import snap
from snn_rl.core.state import leaves
from snn_rl.errors import EngineError, SnnRlError
from snn_rl.inference.choice import weigh
from snn_rl.inference.lowering import lower
from snn_rl.inference.reader import read

PONG, CARTPOLE = "zoo:PongNoFrameskip-v4/T1", "zoo:CartPole-v1/T3"

ACTING = """
import sys
for name in ("torch", "gymnasium", "cv2"):
    sys.modules[name] = None  # importing it raises ImportError
import numpy as np
import snn_rl
for source in sys.argv[1:]:
    agent = snn_rl.load_agent(source)
    agent.act(np.zeros(agent.pipeline.frame_shape, np.uint8 if agent.pipeline.pixels else float))
    saved = agent.state
    agent.reset()
    agent.state = saved
    print(agent.engine, agent.timesteps)
"""


def both(source: str) -> tuple[Agent, Agent]:
    return load_agent(source, "event"), load_agent(source, "torch")


def observations(agent: Agent, count: int, batch: int) -> Any:
    generator = np.random.default_rng(0)
    shape = (count, batch, *agent.pipeline.frame_shape)
    if agent.pipeline.pixels:
        return generator.integers(0, 256, shape).astype(np.uint8)
    return generator.normal(0, 0.3, shape)


@pytest.mark.parametrize("source", [PONG, CARTPOLE, "zoo:PongNoFrameskip-v4/T1-no-carry"])
def test_both_engines_act_alike_and_trade_their_states(source: str) -> None:
    event, torch = both(source)
    assert (event.engine, torch.engine) == ("event", "torch")
    start = np.zeros(3, np.bool_)
    for i, x in enumerate(observations(event, 12, 3)):
        start[i % 3] = i > 5
        assert np.array_equal(event.q_values(x, start), torch.q_values(x, start))
        start[:] = False
        if i % 4 == 3:
            event.state, torch.state = torch.state, event.state
        for ours, theirs in zip(leaves(event.state), leaves(torch.state), strict=True):
            assert np.array_equal(ours, theirs)


def test_predict_leaves_the_agents_own_memory_alone() -> None:
    agent = load_agent(CARTPOLE)
    x = observations(agent, 3, 2)
    agent.act(x[0])
    before = agent.state
    _, state = agent.predict(x[1])
    action, _ = agent.predict(x[2], state, np.array([False, True]))
    assert action.shape == (2,)
    assert all(
        np.array_equal(a, b) for a, b in zip(leaves(before), leaves(agent.state), strict=True)
    )


def test_auto_takes_the_event_driven_engine_for_spiking_agents_alone() -> None:
    assert load_agent(PONG).engine == load_agent(CARTPOLE).engine == "event"
    assert load_agent("zoo:CartPole-v1/ann").engine == "torch"
    with pytest.raises(EngineError, match=r"'hidden1'.*relu"):
        load_agent("zoo:CartPole-v1/ann", "event")
    with pytest.raises(SnnRlError, match="not 'fast'"):
        load_agent(CARTPOLE, "fast")  # type: ignore[arg-type]


def test_what_the_engine_cannot_do_torch_takes_over_where_it_may() -> None:
    agent = load_agent(PONG)
    most = 10**4
    assert agent.with_options(timesteps=3).engine == "event"
    assert agent.with_options(timesteps=most).engine == "torch"
    with pytest.raises(EngineError, match="exact for T from 1 to"):
        load_agent(PONG, "event").with_options(timesteps=most)


def test_the_torch_network_is_there_when_it_is_asked_for() -> None:
    agent = load_agent(CARTPOLE).with_options(timesteps=2, carry_membrane=False)
    policy = agent.policy
    assert (policy.engine, policy.timesteps, policy.carry_membrane) == ("torch", 2, False)
    assert policy.network is agent.policy.network
    assert agent.engine == "event"


def test_states_of_other_agents_are_refused() -> None:
    agent, other = load_agent(CARTPOLE), load_agent(PONG)
    other.act(observations(other, 1, 1)[0])
    with pytest.raises(ValueError, match="state is of an agent with other weights"):
        agent.state = other.state


def test_evaluation_counts_the_same_scores_and_spikes() -> None:
    results = []
    for agent in both(CARTPOLE):
        seeds = validation_seeds(0, 3)
        results.append(evaluate(agent.actor, agent.env_id, agent.pipeline, seeds, max_frames=120))
    event, torch = results
    assert (event.rewards, event.lengths) == (torch.rewards, torch.lengths)
    assert event.spike_rates == torch.spike_rates
    for layer, rates in torch.neuron_rates.items():
        assert rates.equal(event.neuron_rates[layer])


def test_additions_follow_rates_and_changed_pixels() -> None:
    plan = lower(*read(find_agent(PONG)))
    rates = {layer.name: 0.25 for layer in plan.layers}
    macs = 9 * 9 * 64 * 512 + 7 * 7 * 64 * 576 + 3136 * 512 + 512 * 6
    first = 20 * 20 * 32 * 64
    weighed = weigh(plan, rates, 3, changed=70.56)
    assert weighed.dense == first + 3 * macs
    assert weighed.additions == pytest.approx(0.01 * first + 0.25 * macs)
    assert weighed.pays(16)
    assert not weigh(plan, dict.fromkeys(rates, 1.2), 3).pays(16)
    assert weigh(plan, dict.fromkeys(rates, 1.2), 3).pays(1)
    assert weigh(plan, None, 3).additions is None


def test_evaluation_counts_the_pixels_that_change() -> None:
    agent = load_agent("zoo:PixelCartPole-v1/T1")
    found = evaluate(agent.actor, agent.env_id, agent.pipeline, [1, 2], max_frames=12)
    assert found.changed_pixels is not None
    assert 1 < found.changed_pixels < 84 * 84 / 2


def test_validation_runs_event_driven_where_that_pays() -> None:
    policy = load_agent(CARTPOLE, "torch").policy
    exponents = snap(policy.network, policy.timesteps)
    actor = fastest(policy, exponents, 2)
    pipeline, seeds = load_agent(CARTPOLE).pipeline, validation_seeds(0, 2)
    results = [evaluate(a, "CartPole-v1", pipeline, seeds, max_frames=60) for a in (actor, policy)]
    assert (actor.engine, policy.engine) == ("event", "torch")
    assert results[0].rewards == results[1].rewards
    assert results[0].spike_rates == results[1].spike_rates
    assert results[0].changed_pixels is None
    pong = load_agent(PONG, "torch").policy
    busy = dict.fromkeys(pong.network.spiking, 0.9)
    few, many = 1, 16
    exponents = snap(pong.network, pong.timesteps)
    assert fastest(pong, exponents, many).engine == "event"
    assert fastest(pong, exponents, few, busy, 7056.0).engine == "event"
    assert fastest(pong, exponents, many, busy, 42.0).engine == "torch"
    with torch.no_grad():
        next(iter(policy.network.parameters())).add_(1e-7)
    assert fastest(policy, exponents, 2).engine == "torch", "weights off their grid"
    assert fastest(load_agent("zoo:CartPole-v1/ann").policy, {}, 2).engine == "torch"


def _act(environment: dict[str, str], *sources: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ACTING, *sources],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | environment,
    )


def test_acting_needs_neither_torch_nor_gymnasium_nor_opencv() -> None:
    done = _act({}, PONG, CARTPOLE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["event", "1", "event", "3"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    done = _act({"NUMBA_CACHE_DIR": str(blocked / "below")}, CARTPOLE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["event", "3"]


def test_a_damaged_cache_is_no_error(tmp_path: Path) -> None:
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert _act(environment, CARTPOLE).returncode == 0
    files = [path for path in tmp_path.rglob("*.nb*")]
    assert files, "nothing was cached"
    for path in files:
        path.write_bytes(b"damaged")
    done = _act(environment, CARTPOLE)
    assert done.returncode == 0, done.stderr


def test_a_damaged_agent_is_refused_by_every_engine(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(find_agent(CARTPOLE), folder)
    card = folder / "agent.json"
    card.write_text(card.read_text().replace('"out_features": 128', '"out_features": 127', 1))
    for engine in ("auto", "event", "torch"):
        with pytest.raises(SnnRlError, match="damaged"):
            load_agent(folder, engine)  # type: ignore[arg-type]


def test_the_command_line_takes_an_engine(tmp_path: Path) -> None:
    for engine in ("event", "torch"):
        options = ["--engine", engine, "--trials", "1", "--max-frames", "20", "--json"]
        done = snn_rl_command("evaluate", "--agent", CARTPOLE, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f'"engine": "{engine}"' in done.stdout
    done = snn_rl_command("evaluate", "--agent", CARTPOLE, "--engine", "fast", cwd=tmp_path)
    assert done.returncode == 2
    assert "'fast'" in done.stderr
