"""`snn-rl benchmark train`: contenders take turns, and both sides do equal work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from snn_rl.agents.bench.interleaved import Measured, Pacer, Turn, take_turns
from snn_rl.agents.bench.throughput import RIVAL, training_throughput
from snn_rl.agents.config import make_config
from snn_rl.errors import SnnRlError

LEARNER = {"num_envs": 4, "rollout": 8, "replay": 4096, "batch": 8, "updates": 2, "n_step": 3}
SPIKING = {"spiking.num_envs": 4, "spiking.rollout": 4, "spiking.updates": 1}


def _count(file: Path, name: str, pacer: Pacer) -> None:
    """Contender that writes its name down for every step of ten milliseconds."""
    pacer.clock = time.monotonic
    pacer.bytes_per_transition = 7.0
    steps = 0
    while pacer.lap(steps, steps // 2):
        time.sleep(0.01)
        steps += 2
        with file.open("a") as log:
            log.write(name)


def _fail(error: Exception, pacer: Pacer) -> None:
    raise error


def _die(pacer: Pacer) -> None:
    os._exit(9)


def test_contenders_never_run_at_the_same_time(tmp_path: Path) -> None:
    file = tmp_path / "log"
    contenders = {name: partial(_count, file, name) for name in "ab"}
    records = take_turns(contenders, seconds=0.05, repeats=3)
    blocks = "".join(file.read_text()).replace("ab", "a b").replace("ba", "b a").split()
    # Each warms up on its own, then they alternate.
    assert [block[0] for block in blocks] == ["a", "b", "a", "b", "a", "b", "a", "b"]
    assert all(set(block) == {block[0]} for block in blocks)
    for record in records.values():
        assert len(record.turns) == 3
        assert record.bytes_per_transition == 7.0
        for turn in record.turns:
            assert turn.seconds >= 0.05
            assert turn.steps == 2 * turn.updates > 0


def test_a_record_is_the_median_turn() -> None:
    turns = [Turn(2.0, 100, 10, 1.0), Turn(1.0, 100, 10, 0.2), Turn(4.0, 100, 10, 3.0)]
    record = Measured(turns, 0.0)
    assert record.steps_per_second == 50.0
    assert record.update_ms == 100.0


def test_learning_is_timed_by_the_pacers_clock() -> None:
    class Learner:
        def update(self, value: int) -> int:
            return value + 1

    ticks = iter([0.0, 3.0, 10.0, 14.0])
    pacer, learner = Pacer(None, 1.0), Learner()  # type: ignore[arg-type]
    pacer.clock = lambda: next(ticks)
    pacer.time(learner, "update")
    assert [learner.update(1), learner.update(2)] == [2, 3]
    assert pacer.learning == 7.0


@pytest.mark.parametrize(
    ("contender", "said"),
    [
        (partial(_fail, SnnRlError("no room")), "b: no room"),
        (partial(_fail, KeyError("lost")), r"b: KeyError\('lost'\)"),
        (_die, "b died"),
    ],
)
def test_a_contender_that_fails_is_named(tmp_path: Path, contender: object, said: str) -> None:
    contenders = {"a": partial(_count, tmp_path / "log", "a"), "b": contender}
    with pytest.raises(SnnRlError, match=said):
        take_turns(contenders, seconds=0.0, repeats=1)  # type: ignore[arg-type]


def test_the_rival_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SnnRlError, match=r"pip install 'snn-rl\[sb3\]'"):
        training_throughput(make_config({"env": "CartPole-v1"}), seconds=0.0, repeats=1)


@pytest.mark.timeout(300)
def test_every_stage_beside_stable_baselines3() -> None:
    pytest.importorskip("stable_baselines3")
    settings = {f"ann.{name}": value for name, value in LEARNER.items()} | SPIKING
    command = [sys.executable, "-m", "snn_rl", "benchmark", "train", "--env", "CartPole-v1"]
    command += ["--seconds", "0", "--repeats", "1", "--json"]
    command += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    anns = ["ANN, plain DQN", "ANN, double DQN"]
    assert [row["contender"] for row in rows] == [RIVAL, *anns, "T5", "T3", "T1"]
    for row in rows:
        assert row["ratio"] == row["steps_per_second"] / rows[0]["steps_per_second"] > 0
        assert row["update_ms"] > 0


@pytest.mark.timeout(300)
def test_a_transition_of_pong_takes_one_frame() -> None:
    pytest.importorskip("stable_baselines3")
    spiking = {name.removeprefix("spiking."): value for name, value in SPIKING.items()}
    config = make_config(
        {"env": "PongNoFrameskip-v4", "stack": 4, "ann": LEARNER, "spiking": spiking}
    )
    rows = training_throughput(config, timesteps=[1], seconds=0.0, repeats=1)
    size = {row["contender"]: row["bytes_per_transition"] for row in rows}
    assert size["ANN, plain DQN"] == size["ANN, double DQN"] <= 7200
    assert size[RIVAL] > 4 * 84 * 84
    assert "T1" in size
