"""Exact resume: an interrupted or killed run ends with the very weights of one left in peace."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from snn_rl.agents.agent import Agent
from snn_rl.agents.config import TrainConfig, make_config
from snn_rl.agents.evaluation import Evaluation
from snn_rl.agents.loading import load_agent
from snn_rl.agents.monitor import Progress
from snn_rl.agents.results import unfinished
from snn_rl.agents.run import Run
from snn_rl.errors import SnnRlError
from snn_rl.runs import resume
from snn_rl.runs.folder import Interrupted
from snn_rl.runs.resume import RESUME, STATE, Saver, read_state
from snn_rl.support.settings import merge

CARTPOLE = {
    "env": "PositionOnlyCartPole-v1",
    "timesteps": 2,
    "hidden": [12],
    "save_every": 0.0,
    "validation": {"episodes": 2, "every": 160},
    # The replay wraps, and its segments need membranes from before them.
    "ann": {
        "steps": 640, "num_envs": 4, "rollout": 8, "replay": 160, "learning_starts": 64,
        "n_step": 3, "batch": 8, "updates": 2, "target_every": 3,
    },
    "spiking": {"steps": 384, "num_envs": 4, "rollout": 8, "warmup": 2},
}  # fmt: skip


SPIKING_REPLAY = {
    "spiking": {
        "replay": 64, "segment": 3, "burn_in": 2, "n_step": 2, "batch": 4, "td": [1.0, 0.5],
        "learning_starts": 64,
    }
}  # fmt: skip


OVERLAPPED = {"ann": {"overlap": True}, "spiking": {"overlap": True}}


AVERAGED = {"ann": {"average": 0.9}, "spiking": {"average": 0.9}}


PONG = {
    "env": "ShortPong-v0",
    "timesteps": 1,
    "stack": 2,
    "sticky": 0.25,
    "save_every": 0.0,
    "validation": {"episodes": 1, "every": 10_000},
    "ann": {
        "steps": 96, "num_envs": 2, "rollout": 8, "replay": 32, "learning_starts": 32,
        "n_step": 2, "batch": 4, "updates": 2, "target_every": 3,
    },
    "spiking": {"steps": 48, "num_envs": 2, "rollout": 8},
}  # fmt: skip


class StopAfter:
    """Asks to stop once a number of roll-outs is over."""

    def __init__(self, roll_outs: int = 10**9) -> None:
        self.left = roll_outs
        self.steps: list[tuple[str, int]] = []

    def progress(self, progress: Progress) -> None:
        self.left -= 1
        self.steps.append((progress.stage, progress.steps))

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        pass

    def should_stop(self) -> bool:
        return self.left <= 0


def config(base: dict[str, Any], **changes: Any) -> TrainConfig:
    return make_config(merge(base, changes))


def weights(agents: dict[str, Agent]) -> dict[str, torch.Tensor]:
    return {
        f"{stage}.{name}": value
        for stage, agent in agents.items()
        for name, value in agent.policy.network.state_dict().items()
    }


def assert_identical(agents: dict[str, Agent], others: dict[str, Agent]) -> None:
    mine, theirs = weights(agents), weights(others)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def train_in_pieces(
    settings: TrainConfig, folder: Path, pieces: list[int], **options: Any
) -> tuple[dict[str, Agent], list[tuple[str, int]]]:
    """Agents of a run that is stopped after each number of roll-outs, and the steps it took."""
    taken: list[tuple[str, int]] = []
    for roll_outs in pieces:
        monitor = StopAfter(roll_outs)
        with pytest.raises(Interrupted):
            Run(settings, folder, monitor, **options).train()
        taken += monitor.steps
    monitor = StopAfter()
    agents = Run(settings, folder, monitor, **options).train()
    return agents, taken + monitor.steps


def with_dropout(shape: tuple[int, ...], actions: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(shape[0], 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, actions)
    )


@pytest.mark.parametrize(
    ("changes", "options", "pieces"),
    [
        ({}, {}, [1, 7, 11, 3]),  # in the ANN stage, before and after the replay wraps
        ({}, {}, [20, 1, 5]),  # at the very end of the ANN stage, then in the spiking ones
        (SPIKING_REPLAY, {}, [22, 4, 6]),
        ({"teacher": "full_state", "flicker": 0.3, "sticky": 0.2}, {}, [5, 21, 23, 4]),
        ({}, {"q_network": with_dropout}, [9, 14]),
        (AVERAGED, {}, [9, 14]),
        (OVERLAPPED, {}, [1, 7, 11, 3]),
        (merge(OVERLAPPED, SPIKING_REPLAY), {"q_network": with_dropout}, [2, 20, 1, 9]),
    ],
)
def test_a_stopped_run_ends_as_one_left_in_peace(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], pieces: list[int]
) -> None:
    if changes.get("teacher") == "full_state":
        changes = changes | {"privileged": CARTPOLE["ann"]}
    settings = config(CARTPOLE, **changes)
    undisturbed = StopAfter()
    expected = Run(settings, tmp_path / "one", undisturbed, **options).train()
    agents, steps = train_in_pieces(settings, tmp_path / "other", pieces, **options)
    assert_identical(agents, expected)
    assert steps == undisturbed.steps, "no step is lost or taken twice"
    folders = [sorted(p.name for p in (tmp_path / run).iterdir()) for run in ("one", "other")]
    assert folders[0] == folders[1], "nothing is left over"


@pytest.fixture
def short_pong() -> Iterator[None]:
    """Pong whose episodes last 50 decisions."""
    options = {"game": "pong", "frameskip": 1, "max_num_frames_per_episode": 200}
    gym.register("ShortPong-v0", entry_point="ale_py.env:AtariEnv", kwargs=options)
    yield
    del gym.registry["ShortPong-v0"]


@pytest.mark.usefixtures("short_pong")
def test_pong_frames_resume_exactly(tmp_path: Path) -> None:
    settings = config(PONG)
    expected = Run(settings, tmp_path / "one", StopAfter()).train()
    agents, _ = train_in_pieces(settings, tmp_path / "other", [4, 3])
    assert_identical(agents, expected)


def test_a_validation_that_was_stopped_is_made_up_for(tmp_path: Path) -> None:
    class StopInValidation(StopAfter):
        """Stops while the first validation plays: after it has been asked a few times more."""

        def should_stop(self) -> bool:
            validating = self.steps[-1:] == [("ann", 224)]
            self.left -= validating
            return validating and self.left < 10**9 - 12

    settings = config(CARTPOLE)
    expected = Run(settings, tmp_path / "one", StopAfter()).train()
    with pytest.raises(Interrupted):
        Run(settings, tmp_path / "other", StopInValidation()).train()
    state = read_state(tmp_path / "other" / RESUME / STATE)
    assert state["validated_at"] < state["steps"] == 224
    assert_identical(Run(settings, tmp_path / "other", StopAfter()).train(), expected)


def _train(folder: Path, die_at_save: int = 0) -> None:
    """In a process of its own: saves as often as it can, or dies within a save."""
    torch.set_num_threads(1)
    resume.PAUSE = 0.0
    if die_at_save:
        replace, count = Path.replace, [die_at_save]

        def die(self: Path, target: Path) -> Path:
            count[0] -= self.name.endswith(STATE)
            if count[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = die  # type: ignore[method-assign, assignment]
    Run(_killed(), folder, StopAfter()).train()


def _killed() -> TrainConfig:
    return config(CARTPOLE, ann={"steps": 6400}, spiking={"steps": 3840})


def reached(folder: Path) -> tuple[int, int]:
    """Finished stages and steps of the last save, which must be whole."""
    stages = [name for name in ("ann", "T2", "T1") if (folder / name / "agent.json").exists()]
    for name in stages:
        load_agent(folder / name)
    state = folder / RESUME / STATE
    if not state.exists():
        return len(stages), 0
    saved = read_state(state)
    return (len(stages), saved["steps"]) if saved["stage"] not in stages else (len(stages), 0)


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["snn_rl.agents.run"])
    expected = Run(_killed(), tmp_path / "one", StopAfter()).train()
    folder, moments = tmp_path / "other", np.random.default_rng(0)
    last, within_saves = (0, 0), 0
    for attempt in range(24):
        # Every fourth dies inside a save, between writing and renaming, the others anywhere.
        process = context.Process(target=_train, args=(folder, 3 if attempt % 4 == 3 else 0))
        process.start()
        if attempt % 4 == 3:
            process.join(60)
        else:
            time.sleep(moments.uniform(0.05, 0.5))
            process.kill()
            process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        within_saves += (folder / RESUME / f".{STATE}").exists()
        assert reached(folder) >= last
        last = reached(folder)
    assert within_saves >= 5
    assert last > (0, 0)
    assert_identical(Run(_killed(), folder, StopAfter()).train(), expected)
    assert not list(folder.rglob(".*"))


def test_saves_are_rare_enough(tmp_path: Path) -> None:
    """A save that took a second keeps the next one a minute away: below 2 % of the time."""
    saver = Saver(tmp_path, every=0.0)
    assert saver.due()
    saver.save({"steps": 1}, lambda: None)
    saver.wait()
    saver.cost = 1.0
    assert not saver.due()
    saver.saved_at -= 59
    assert not saver.due()
    saver.saved_at -= 2
    assert saver.due()


def test_roll_outs_that_are_used_once_need_no_saves(tmp_path: Path) -> None:
    """Only time makes saves of a stage that learns from its newest roll-out alone due."""
    settings = config(CARTPOLE, save_every=3600.0, timesteps=1)
    monitor = StopAfter()
    saves: dict[str, int] = {}
    write = Saver.save

    def counted(saver: Saver, state: Any, before: Any) -> None:
        saves[state["stage"]] = saves.get(state["stage"], 0) + 1
        write(saver, state, before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "save", counted)
        Run(settings, tmp_path / "run", monitor).train()
    assert saves["T1"] == 2, "at the start and at the end"


def test_only_unfinished_runs_are_resumed(tmp_path: Path) -> None:
    with pytest.raises(SnnRlError, match="holds no run to resume"):
        unfinished(tmp_path)
    settings = config(CARTPOLE, ann={"steps": 64}, timesteps=0)
    with pytest.raises(Interrupted):
        Run(settings, tmp_path / "run", StopAfter(1), command="snn-rl train --seed 3").train()
    assert unfinished(tmp_path / "run") == (settings, "snn-rl train --seed 3")
    agents = Run(settings, tmp_path / "run", StopAfter()).train()
    assert agents["ann"].card["provenance"]["steps"] == 64
    with pytest.raises(SnnRlError, match="is finished"):
        unfinished(tmp_path / "run")
