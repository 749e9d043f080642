"""A sample of the fuzzing in benchmarks/fuzz.py, and its own ability to notice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import snn_rl

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from card_interpreter import Interpreter
from fuzz import apart, fuzz, try_agent


def test_damaged_agents_and_runs_are_refused_or_right() -> None:
    assert fuzz(agents=24, runs=6, seed=1) == []


@pytest.mark.parametrize("stage", ["T1", "ann"])
def test_the_oracle_notices_an_agent_that_acts_otherwise(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snn_rl.load_agent(f"zoo:CartPole-v1/{stage}").save(tmp_path / "agent")
    assert try_agent(tmp_path / "agent", np.random.default_rng(0)) == "right"
    right = Interpreter.q_values
    monkeypatch.setattr(Interpreter, "q_values", lambda *given: right(*given) * np.float32(1.001))
    with pytest.raises(AssertionError, match="its card says"):
        try_agent(tmp_path / "agent", np.random.default_rng(0))


@pytest.mark.parametrize("timesteps", [1, 3])
def test_sums_of_values_on_no_grid_do_not_depend_on_their_order(
    tmp_path: Path, timesteps: int
) -> None:
    """A read-out of a layer's own sums, before any spike, still has the bits of its card."""
    snn_rl.load_agent("zoo:CartPole-v1/T1").save(tmp_path / "agent")
    card = json.loads((tmp_path / "agent" / "agent.json").read_text())
    card["graph"][-1]["inputs"] = [card["graph"][1]["name"]]
    (tmp_path / "agent" / "agent.json").write_text(json.dumps(card | {"timesteps": timesteps}))
    assert try_agent(tmp_path / "agent", np.random.default_rng(0)) == "right"
    agent = snn_rl.load_agent(tmp_path / "agent")
    seen = np.random.default_rng(1).normal(0, 0.5, (64, 4)).astype(np.float32)
    together, alone = agent.q_values(seen), []
    for one in seen:
        agent.reset()
        alone.append(agent.q_values(one))
    np.testing.assert_array_equal(together, alone)


def test_what_is_against_the_promise_is_told(tmp_path: Path) -> None:
    def exhausts() -> str:
        return "right" if np.zeros(2**29).any() else "refused"

    assert "MemoryError" in apart(exhausts, tmp_path)
    assert "ZeroDivisionError" in apart(lambda: str(1 / 0), tmp_path)
    assert apart(lambda: "refused", tmp_path) == "refused"
