"""Agents whose numbers make no sense are refused by type and range, before memory is spent."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import snn_rl
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.errors import CheckpointError, SnnRlError
from snn_rl.inference import reader
from snn_rl.inference.checks import LARGEST_CARD
from snn_rl.inference.reader import CARD, DIGEST, WEIGHTS

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    snn_rl.load_agent("zoo:CartPole-v1/T1").save(tmp_path / "agent")
    return tmp_path / "agent"


def edit(folder: Path, change: Change) -> None:
    card = json.loads((folder / CARD).read_text())
    change(card)
    (folder / CARD).write_text(json.dumps(card))


def refused(folder: Path) -> str:
    texts = set()
    for engine in ("auto", "event", "torch"):
        with pytest.raises(CheckpointError) as caught:
            snn_rl.load_agent(folder, engine)  # type: ignore[arg-type]
        texts.add(str(caught.value))
    (text,) = texts
    assert "\n" not in text
    return text


def setting(*path: Any, to: Any) -> Change:
    def change(card: dict[str, Any]) -> None:
        part: Any = card
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("timesteps",), 10**6, "timesteps are not a number from 1 to 1024"),
        (("timesteps",), True, "timesteps are not"),
        (("timesteps",), float("inf"), "timesteps are not"),
        (("carry_membrane",), "false", "carry_membrane and privileged must be true or false"),
        (("privileged",), 0, "must be true or false"),
        (("observation", "scale"), [1.0, 1.0, 1.0, float("inf")], "observation pipeline"),
        (("observation", "scale"), [1.0, 1.0, 1.0, 0], "observation pipeline"),
        (("observation", "scale"), [1.0, 1.0, 1.0, 1e308], "observation pipeline"),
        (("observation", "scale"), [1.0, 1.0, 1.0, float("nan")], "observation pipeline"),
        (("observation", "scale"), [1.0] * 3, "observation pipeline"),
        (("observation", "raw_shape"), [-1], "observation pipeline"),
        (("observation", "raw_shape"), [0], "observation pipeline"),
        (("observation", "raw_shape"), [10**9], "observation pipeline"),
        (("observation", "raw_shape"), [4.0], "observation pipeline"),
        (("observation", "side"), 10**9, "observation pipeline"),
        (("graph", 0, "options", "stack"), 0, "stack is '0'"),
        (("graph", 0, "options", "stack"), -1, "stack is '-1'"),
        (("grid", "fc1"), "14", "an exponent for each"),
        (("grid", "fc1"), float("inf"), "an exponent for each"),
        (("grid", "fc1"), -200, "an exponent for each"),
        (("grid", "more"), 3, "an exponent for each"),
        (("environment", "num_actions"), 2.0, "does not fit its environment"),
        (("environment", "maxpool"), "no", "does not fit its environment"),
        (("environment", "fire_reset"), 1, "does not fit its environment"),
        (("graph", 0, "options", "pixels"), True, "does not fit its observations"),
        (("environment",), [], "its card lacks"),
        (("results",), [], "no mapping"),
        (("provenance",), "x", "no mapping"),
        (("surrogate",), {"kind": "arctan", "gamma": float("inf")}, "gamma must be positive"),
    ],
)
def test_cards_are_read_by_type_and_range(
    agent: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    edit(agent, setting(*path, to=value))
    assert message in (refused(agent) if path[0] != "surrogate" else refused_in_torch(agent))


@pytest.mark.parametrize("engine", ["event", "torch"])
def test_a_full_state_that_the_network_does_not_read(tmp_path: Path, engine: Any) -> None:
    folder, env_id = tmp_path / "agent", "PositionOnlyCartPole-v1"
    snn_rl.load_agent(f"zoo:{env_id}/T1").save(folder)
    edit(folder, setting("privileged", to=True))
    found = snn_rl.load_agent(folder, engine)
    with pytest.raises(SnnRlError, match=r"of shape \(4,\), but the agent reads \(2,\)"):
        evaluate_agent(found, env_id, trials=1)


def refused_in_torch(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        snn_rl.load_agent(folder, "torch")
    return str(caught.value)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Other weights, with a digest that fits."""
    arrays = load_file(folder / WEIGHTS)
    change(arrays)
    save_file(arrays, folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    edit(folder, setting(DIGEST, to=digest))


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int32", "int8"])
def test_weights_of_a_type_that_skips_the_grid(agent: Path, kind: str) -> None:
    rewrite(agent, lambda arrays: arrays.update({"fc1.weight": arrays["fc1.weight"].astype(kind)}))
    assert "'fc1.weight' is " in refused(agent)
    assert "not int16" in refused(agent)


def test_weights_that_leave_the_grid_of_exact_sums(agent: Path) -> None:
    def fill(arrays: dict[str, Any]) -> None:
        arrays["fc2.weight"] = np.full_like(arrays["fc2.weight"], 32767)
        arrays["fc2.bias"] = np.full_like(arrays["fc2.bias"], 32767)

    rewrite(agent, fill)
    edit(agent, setting("grid", "fc2", to=0))
    snn_rl.load_agent(agent)  # 129 * 32767 < 2^24
    edit(agent, setting("timesteps", to=1024))
    assert "'q' leave the grid of exact sums" in refused(agent)


def test_values_that_can_overflow(tmp_path: Path) -> None:
    """An ANN's layers amplify what enters them: the bound behind them all is known on load."""
    snn_rl.load_agent("zoo:CartPole-v1/ann").save(tmp_path / "ann")
    snn_rl.load_agent(tmp_path / "ann")
    for layer in ("fc1", "fc2"):
        edit(tmp_path / "ann", setting("grid", layer, to=-60))
    assert "can overflow" in refused_in_torch(tmp_path / "ann")


def test_q_values_that_are_not_finite_choose_no_action() -> None:
    agent = snn_rl.load_agent("zoo:CartPole-v1/ann")
    next(agent.policy.network.parameters()).data.fill_(3e38)
    with pytest.raises(SnnRlError, match="Q-values are not finite"):
        agent.act(np.full(4, 100, np.float32))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("graph", 1, "options", "out_features"), 2**24),
        (("graph", 2, "options", "shape"), [2**24]),
        (("graph", 0, "options", "shape"), [2**24, 2**24]),
        (("graph", 0, "options", "shape"), [10**9]),
        (("graph", 0, "options", "stack"), 2**24),
    ],
)
def test_sense_comes_before_memory(agent: Path, path: tuple[Any, ...], value: Any) -> None:
    """What a card claims is compared with the file of weights before anything is made of it."""
    edit(agent, setting(*path, to=value))
    refused(agent)  # imports and compiles what it needs
    tracemalloc.start()
    refused(agent)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5e6


def test_layers_that_are_all_padding_are_too_large(agent: Path) -> None:
    image = {"shape": [1, 2, 2], "pixels": True}
    conv = {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "padding": 2**24}
    wide = [
        {"name": "in", "op": "input", "inputs": [], "options": image},
        {"name": "conv", "op": "conv", "inputs": ["in"], "options": conv},
    ]
    edit(agent, setting("graph", to=wide))
    assert "more than 67108864 values" in refused(agent)


def test_files_that_are_too_large_are_not_read(agent: Path) -> None:
    for name, message in ((WEIGHTS, "where the layers need"), (CARD, "too large for a card")):
        os.truncate(agent / name, 64 * LARGEST_CARD)  # holds no more on the disk than before
        tracemalloc.start()
        assert message in refused(agent)
        assert tracemalloc.get_traced_memory()[1] < 5e6
        tracemalloc.stop()


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_pipes_are_not_waited_for(agent: Path, name: str) -> None:
    (agent / name).unlink()
    os.mkfifo(agent / name)
    assert f"{name} is missing" in refused(agent)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1" * 5000])
@pytest.mark.parametrize("key", ["timesteps", "num_actions", "side", "version", "gamma", "fc1"])
def test_errors_are_of_the_promised_type(agent: Path, key: str, number: str) -> None:
    text = (agent / CARD).read_text()
    old = next(line for line in text.splitlines() if line.strip().startswith(f'"{key}":'))
    comma = "," if old.endswith(",") else ""
    (agent / CARD).write_text(text.replace(old, f'"{key}": {number}{comma}'))
    refused_in_torch(agent)


def test_trouble_of_the_machine_is_not_called_damage(
    agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reader, "digest", busy)
    text = refused(agent)
    assert text.endswith("cannot be read: Input/output error")
    assert "damaged" not in text
    monkeypatch.undo()

    def exhausted(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("snn_rl.runs.checkpoint.Network", exhausted)
    with pytest.raises(MemoryError):
        snn_rl.load_agent(agent, "torch")


@pytest.mark.parametrize("engine", ["event", "torch"])
def test_predict_is_thread_safe(engine: Any) -> None:
    """Each caller keeps its state: threads that share an agent act as if they were alone."""
    agent = snn_rl.load_agent("zoo:PositionOnlyCartPole-v1/T1", engine)
    games = np.random.default_rng(0).normal(0, 0.1, (4, 150, 2)).astype(np.float32)

    def play(game: int) -> list[int]:
        state, actions = None, []
        for observation in games[game]:
            action, state = agent.predict(observation, state)
            actions.append(int(action))
        return actions

    alone = [play(game) for game in range(4)]
    together: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda g=g: together.update({g: play(g)}))  # type: ignore[misc]
        for g in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[game] for game in range(4)] == alone
    assert len({tuple(actions) for actions in alone}) == 4
    assert agent.state is None
