"""engine="auto": one rule over rates, changed pixels and batch, known or measured; equal bits."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snn_rl.agents.agent import Agent
from snn_rl.agents.automatic import FRAMES, ChangeCounter
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.loading import find_agent, load_agent
from snn_rl.agents.seeds import validation_seeds
from snn_rl.core.state import leaves
from snn_rl.inference import choice
from snn_rl.runs import checkpoint

SOURCE = "zoo:PongNoFrameskip-v4/T3"


def with_results(folder: Path, **results: Any) -> Path:
    """The agent, its card telling these results alone."""
    shutil.copytree(find_agent(SOURCE), folder)
    path = folder / checkpoint.CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"results": results}))
    return folder


def frames(agent: Agent, count: int, batch: int) -> Any:
    """Pictures in which a part changes from one to the next."""
    generator = np.random.default_rng(0)
    first = generator.integers(0, 256, (batch, *agent.pipeline.frame_shape)).astype(np.uint8)
    for _ in range(count):
        first = first.copy()
        first[..., generator.integers(84)] += 5
        yield first


def same_states(agent: Agent, other: Agent) -> bool:
    pairs = zip(leaves(agent.state), leaves(other.state), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_many_environments_may_be_faster_in_torch_than_one(tmp_path: Path) -> None:
    rates = {f"hidden{n}": 1.5 for n in (1, 2, 3, 4)}
    agent = load_agent(with_results(tmp_path / "busy", spike_rates=rates))
    plain = load_agent(SOURCE, "torch")
    assert agent.engine == "event"
    for x in frames(agent, 2, choice.MANY):
        assert np.array_equal(agent.q_values(x), plain.q_values(x))
    assert agent.engine == "torch"
    assert same_states(agent, plain)
    saved = agent.state
    for one in (agent, plain):
        one.reset()
        one.act(x[0])
    assert agent.engine == "event"
    assert same_states(agent, plain)
    agent.state = saved
    pairs = zip(leaves(agent.state), leaves(saved), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_agents_that_never_pay_are_torchs(tmp_path: Path) -> None:
    rates = {f"hidden{n}": 4.0 for n in (1, 2, 3, 4)}
    agent = load_agent(with_results(tmp_path / "busy", spike_rates=rates))
    assert (agent.engine, agent.policy) == ("torch", agent.actor)


@pytest.mark.parametrize("share", [0.0, 9.0])
def test_unknown_rates_are_measured_and_the_rule_is_told_once(
    tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture, share: float
) -> None:
    monkeypatch.setattr(choice, "SHARE", share)
    caplog.set_level(logging.INFO, "snn_rl.agents.automatic")
    agent, plain = load_agent(with_results(tmp_path / "unknown")), load_agent(SOURCE, "torch")
    batch, engines = choice.MANY, []
    for x in frames(agent, FRAMES // batch + 3, batch):
        assert np.array_equal(agent.q_values(x), plain.q_values(x))
        engines.append(agent.engine)
    after = "torch" if share == 0 else "event"
    assert engines == ["event"] * (FRAMES // batch) + [after] * 3
    assert same_states(agent, plain)
    (said,) = [record.getMessage() for record in caplog.records]
    assert choice.RULE in said


def test_measured_or_not_an_evaluation_is_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(choice, "SHARE", 0.0)
    found = []
    for agent in (load_agent(with_results(tmp_path / "unknown")), load_agent(SOURCE, "torch")):
        seeds = validation_seeds(0, choice.MANY)
        found.append(evaluate(agent.actor, agent.env_id, agent.pipeline, seeds, max_frames=20))
    mine, torchs = found
    assert (mine.rewards, mine.lengths) == (torchs.rewards, torchs.lengths)
    assert mine.spike_rates == torchs.spike_rates
    assert mine.changed_pixels == torchs.changed_pixels


def test_another_way_to_run_is_measured_anew(tmp_path: Path) -> None:
    agent = load_agent(with_results(tmp_path / "unknown"))
    other, plain = (
        one.with_options(timesteps=2, carry_membrane=False)
        for one in (agent, load_agent(SOURCE, "torch"))
    )
    assert (other.timesteps, other.actor.carry_membrane) == (2, False)
    for x in frames(agent, 3, 2):
        assert np.array_equal(other.q_values(x), plain.q_values(x))


def test_changed_pixels_count_where_a_frame_follows_its_own() -> None:
    counter, no = ChangeCounter(), np.zeros(2, np.bool_)
    before = np.zeros((2, 1, 4, 4), np.uint8)
    after = before.copy()
    after[0, 0, 0, :3] = 9
    counter.observe(before, ~no)
    counter.observe(after, no)
    assert counter.mean == 1.5
    counter.select(np.array([True, False]))
    counter.observe(after[:1], no[:1])
    assert counter.mean == 1.0
    counter.observe(before, no)  # another batch
    assert counter.mean == 1.0
