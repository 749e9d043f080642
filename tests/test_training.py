"""Whole training runs, tiny but real: stages, files, seeds, checkpoints, teachers, environments."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import DISTILLING, Watcher, Witness, short, tiny, weights
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

import snn_rl
from snn_rl.agents.agent import Agent
from snn_rl.agents.config import make_config
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.loading import load_agent
from snn_rl.agents.results import stages
from snn_rl.agents.run import Run
from snn_rl.agents.seeds import validation_seeds
from snn_rl.core.network import Network
from snn_rl.envs import check_spaces
from snn_rl.envs.observation import pipeline_for
from snn_rl.errors import SnnRlError
from snn_rl.runs.folder import Interrupted
from snn_rl.support.settings import read_yaml

OWNED = ("owner.json", "owner.lock")


def identical(one: Network, other: Network) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Agent]]:
    """The folder and the agents of a run through all stages."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, snn_rl.train(tiny(seed=7), run_dir=folder)


def test_a_run_goes_through_all_stages(finished: tuple[Path, dict[str, Agent]]) -> None:
    _, agents = finished
    assert list(agents) == ["ann", "T2", "T1"]
    assert [agent.timesteps for agent in agents.values()] == [1, 2, 1]
    assert not agents["ann"].policy.network.spiking
    assert all(agents[name].policy.network.spiking for name in ("T2", "T1"))
    assert all(agent.env_id == "CartPole-v1" for agent in agents.values())


def test_a_stage_can_have_steps_of_its_own(tmp_path: Path) -> None:
    config = short(spiking={"steps_at": {2: 384}})
    agents = snn_rl.train(config, run_dir=tmp_path / "run")
    assert {name: agent.card["provenance"]["steps"] for name, agent in agents.items()} == {
        "ann": 192, "T2": 384, "T1": 128,
    }  # fmt: skip


def test_stages_are_saved_and_loadable(finished: tuple[Path, dict[str, Agent]]) -> None:
    folder, agents = finished
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "tensorboard",
        *OWNED,
        *agents,
    }
    assert [path.name for path in stages(folder)] == list(agents)
    for name, agent in agents.items():
        loaded = load_agent(folder / name)
        assert identical(loaded.policy.network, agent.policy.network)
        assert loaded.timesteps == agent.timesteps
        assert loaded.card["stage"] == name
        assert loaded.pipeline == agent.pipeline
        assert {path.name for path in (folder / name).iterdir()} == {
            "agent.json",
            "weights.safetensors",
        }


def test_cards_tell_where_the_agent_comes_from(finished: tuple[Path, dict[str, Agent]]) -> None:
    folder, _ = finished
    for stage, teacher in (("ann", None), ("T2", "self"), ("T1", "self")):
        card = json.loads((folder / stage / "agent.json").read_text())
        assert card["teacher"] == teacher
        made = card["provenance"]
        assert made["seed"] == 7
        assert made["steps"] == 1024
        assert made["updates"] > 0
        assert made["versions"]["torch"] == version("torch")
        results = card["results"]
        assert isinstance(results["validation"], float)
        assert all(0 <= rate <= int(stage[1:]) for rate in results["spike_rates"].values())
        assert bool(results["spike_rates"]) == (stage != "ann")
        assert results["changed_pixels"] is None  # of vectors


def test_the_resolved_configuration_is_kept(finished: tuple[Path, dict[str, Agent]]) -> None:
    folder, _ = finished
    assert make_config(read_yaml(folder / "config.yaml")) == tiny(seed=7)


def test_metrics_tell_the_course_of_training(finished: tuple[Path, dict[str, Agent]]) -> None:
    folder, agents = finished
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["stage"] for line in lines)) == list(agents)
    for name in agents:
        mine = [line for line in lines if line["stage"] == name]
        steps = [line["steps"] for line in mine]
        assert steps == sorted(steps)
        assert steps[-1] == 1024
        validated = [line["validation"] for line in mine if line["validation"] is not None]
        assert len(validated) >= 2
        best = json.loads((folder / name / "agent.json").read_text())["results"]["validation"]
        assert round(max(validated), 2) == best
        assert ("td" if name == "ann" else "distill") in mine[-1]["metrics"]
    assert mine[-1]["metrics"]["spike_rate"] > 0


def test_tensorboard_events_are_readable(finished: tuple[Path, dict[str, Agent]]) -> None:
    folder, agents = finished
    assert {path.name for path in (folder / "tensorboard").iterdir()} == set(agents)
    for name, agent in agents.items():
        events = EventAccumulator(str(folder / "tensorboard" / name))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        assert {"rollout/mean_reward", "rollout/epsilon", "validation/mean_reward"} <= tags
        assert ("loss/td" if name == "ann" else "loss/distill") in tags
        assert {f"spike_rate/{layer}" for layer in agent.policy.network.spiking} <= tags
        steps = [event.step for event in events.Scalars("validation/mean_reward")]
        assert steps == sorted(steps)
        assert steps[-1] == 1024


def test_pupils_learn_from_their_teacher(finished: tuple[Path, dict[str, Agent]]) -> None:
    lines = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["stage"] == "T2"][-1]
    assert last["metrics"]["agreement"] > 0.75


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        torch.manual_seed(ord(name))  # what happened before must not matter
        np.random.seed(ord(name))
        torch.randn(ord(name))
        runs.append(snn_rl.train(short(seed=seed), run_dir=tmp_path / name))
    for stage in runs[0]:
        nets = [run[stage].policy.network for run in runs]
        assert identical(nets[0], nets[1]), stage
        assert not identical(nets[0], nets[2]), stage


def test_training_validation_and_evaluation_have_seeds_of_their_own(tmp_path: Path) -> None:
    Witness.seeds.clear()
    agents = snn_rl.train(short(env="Witness-v0", seed=3), run_dir=tmp_path / "run")
    seen = set(Witness.seeds)
    training = {seed for seed in seen if seed >= 2**30}
    validation = seen - training
    assert len(training) > 50
    assert validation == set(validation_seeds(3, 4))
    for seed in (0, 3, 4):
        Witness.seeds.clear()
        evaluate_agent(agents["T1"], "T1", trials=50, seed=seed)
        played = {s for s in Witness.seeds if s < 2**30}
        assert len(played) == 50
        assert not played & validation


def test_stages_and_runs_train_on_seeds_of_their_own(tmp_path: Path) -> None:
    Witness.seeds.clear()
    pipeline_for(check_spaces("Witness-v0"))
    measuring = set(Witness.seeds)  # the scale of observations: the same for all runs
    training = []
    for seed in (3, 4):
        Witness.seeds.clear()
        snn_rl.train(short(env="Witness-v0", seed=seed), run_dir=tmp_path / str(seed))
        training += [s for s in Witness.seeds if s >= 2**30 and s not in measuring]
    assert len(training) > 200
    assert len(training) == len(set(training))


def test_stopping_saves_what_was_reached(tmp_path: Path) -> None:
    """Three roll-outs of the ANN, then two of the first spiking stage."""
    config = short()
    watcher = Watcher(stop_after=4)
    with pytest.raises(Interrupted, match="T2"):
        Run(config, tmp_path / "run", watcher).train()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml",
        "ann",
        "interrupted",
        "resume",
        *OWNED,
    }
    assert load_agent(tmp_path / "run" / "ann").card["stage"] == "ann"
    reached = load_agent(tmp_path / "run" / "interrupted" / "T2")
    assert reached.policy.network.spiking
    assert reached.timesteps == 2
    assert reached.act(np.zeros(4, np.float32)) in (0, 1)


def test_pixels_are_trained_and_converted(tmp_path: Path) -> None:
    config = short(
        env="PixelCartPole-v1",
        timesteps=1,
        ann={"steps": 32, "num_envs": 2, "rollout": 8, "replay": 64, "learning_starts": 16}
        | {"updates": 1, "batch": 4},
        spiking={"steps": 32, "num_envs": 2, "rollout": 8, "updates": 1},
        validation={"episodes": 2, "every": 32},
    )
    agents = snn_rl.train(config, run_dir=tmp_path / "run")
    assert list(agents) == ["ann", "T1"]
    agent = load_agent(tmp_path / "run" / "T1")
    assert agent.policy.network.pixels
    frame = np.random.default_rng(0).integers(256, size=(84, 84)).astype(np.uint8)
    assert agent.act(frame) == agents["T1"].act(frame)


def test_a_teacher_that_sees_the_full_state(tmp_path: Path) -> None:
    config = short(env="PositionOnlyCartPole-v1", teacher="full_state", ann=DISTILLING)
    agents = snn_rl.train(config, run_dir=tmp_path / "run")
    assert [path.name for path in stages(tmp_path / "run")] == ["teacher", "ann", "T2", "T1"]
    teacher = load_agent(tmp_path / "run" / "teacher")
    assert teacher.policy.privileged
    assert teacher.policy.network.input_shape == (4,)
    assert teacher.act(np.zeros(4, np.float32)) in (0, 1)
    with pytest.raises(ValueError, match=r"observation is \(2,\).*takes \(4,\)"):
        teacher.act(np.zeros(2, np.float32))
    assert agents["T1"].policy.network.input_shape == (2,)
    assert agents["ann"].card["teacher"] == agents["T1"].card["teacher"] == "full_state"
    assert evaluate_agent(teacher, "teacher", trials=2)["mean_reward"] > 0


def test_a_teacher_that_sees_several_frames(tmp_path: Path) -> None:
    config = short(env="PositionOnlyCartPole-v1", teacher="stack:4")
    agents = snn_rl.train(config, run_dir=tmp_path / "run")
    teacher = load_agent(tmp_path / "run" / "teacher")
    assert teacher.policy.network.stack == 4
    assert not teacher.policy.privileged
    assert agents["T1"].policy.network.stack == 1
    assert agents["T1"].card["teacher"] == "stack:4"
    assert agents["ann"].card["teacher"] is None  # it learns from rewards


def test_a_saved_agent_as_teacher(finished: tuple[Path, dict[str, Agent]], tmp_path: Path) -> None:
    name = str(finished[0] / "T1")
    agents = snn_rl.train(short(teacher=name, timesteps=1), run_dir=tmp_path / "run")
    assert agents["T1"].card["teacher"] == name
    assert not (tmp_path / "run" / "teacher").exists()
    for env_id, message in (
        ("PositionOnlyCartPole-v1", "does not see what PositionOnlyCartPole-v1 shows"),
        ("Acrobot-v1", "has 2 actions; Acrobot-v1 has 3"),
    ):
        with pytest.raises(SnnRlError, match=message):
            snn_rl.train(short(teacher=name, env=env_id), run_dir=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "MountainCar-v0"])
def test_other_environments_train_with_the_defaults(env_id: str, tmp_path: Path) -> None:
    settings: Mapping[str, Any] = {
        "env": env_id,
        "timesteps": 1,
        "ann": {"steps": 4096},
        "spiking": {"steps": 1024},
        "validation": {"episodes": 2},
    }
    agents = snn_rl.train(settings, run_dir=tmp_path / "run")
    for agent in agents.values():
        assert agent.card["provenance"]["updates"] > 0
        assert agent.num_actions == 3
        assert agent.card["results"]["validation"] < 0


def test_no_timesteps_train_the_ann_alone(tmp_path: Path) -> None:
    assert list(snn_rl.train(short(timesteps=0), run_dir=tmp_path / "run")) == ["ann"]


def test_an_existing_run_is_not_overwritten(finished: tuple[Path, dict[str, Agent]]) -> None:
    with pytest.raises(SnnRlError, match="already holds a run: choose another"):
        snn_rl.train(short(), run_dir=finished[0])


def test_a_refused_run_leaves_no_folder_behind(tmp_path: Path) -> None:
    for changes in ({"env": "NoSuchGame-v0"}, {"device": "nonsense"}, {"teacher": "nowhere"}):
        with pytest.raises(ValueError, match=r"NoSuchGame|nonsense|nowhere"):
            snn_rl.train(short(**changes), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    result: dict[str, Agent] = {}

    def work() -> None:
        result.update(snn_rl.train(short(timesteps=0), run_dir=tmp_path / "run"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "ann" in result
