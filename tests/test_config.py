"""Configuration: what is refused and how, and YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from snn_rl.agents.config import (
    LearnerConfig,
    NeuronConfig,
    TrainConfig,
    ValidationConfig,
    make_config,
    teacher_stack,
)
from snn_rl.errors import ConfigError
from snn_rl.support.settings import read_yaml


def make(**settings: Any) -> TrainConfig:
    return make_config({"env": "CartPole-v1"} | settings)


def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        make(**settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults_hold_for_every_environment() -> None:
    config = make_config({"env": "Any-v0"})
    assert config.stages() == [5, 4, 3, 2, 1]
    assert config.ann == LearnerConfig()
    assert config.carry_membrane


def test_unknown_key_is_named_with_its_path_a_suggestion_and_what_is_allowed() -> None:
    text = refusal(ann={"learning_rat": 0.1})
    assert "unknown key 'ann.learning_rat'" in text
    assert "did you mean 'learning_rate'?" in text
    for name in LearnerConfig.model_fields:
        assert name in text
    text = refusal(tiemsteps=4)
    assert "unknown key 'tiemsteps'; did you mean 'timesteps'?" in text
    for name in TrainConfig.model_fields:
        assert name in text


def test_unknown_key_without_anything_close_gets_no_suggestion() -> None:
    text = refusal(validation={"qqq": 1})
    assert "'validation.qqq'" in text
    assert "did you mean" not in text
    assert f"allowed are {', '.join(ValidationConfig.model_fields)}" in text


def test_the_source_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^my\.yaml: .*'x'"):
        make_config({"env": "A-v0", "x": 1}, "my.yaml")


@pytest.mark.parametrize(
    ("settings", "path", "value"),
    [
        ({"timesteps": "5"}, "timesteps", "'5'"),
        ({"timesteps": 2.0}, "timesteps", "2.0"),
        ({"timesteps": True}, "timesteps", "True"),
        ({"carry_membrane": 1}, "carry_membrane", "1"),
        ({"env": 3}, "env", "3"),
        ({"skip": 4}, "skip", "4"),
        ({"skip": ["4"]}, "skip.0", "'4'"),
        ({"ann": {"td": ["x", 1.0]}}, "ann.td.0", "'x'"),
        ({"ann": {"steps": None}}, "ann.steps", "None"),
        ({"ann": 5}, "ann", "5"),
        ({"spiking": None}, "spiking", "None"),
        ({"neurons": {"threshold": "everything"}}, "neurons.threshold", "'everything'"),
    ],
)
def test_wrong_type_is_named_with_its_path_and_value(
    settings: dict[str, Any], path: str, value: str
) -> None:
    text = refusal(**settings)
    assert text.startswith(f"configuration: {path}")
    assert text.endswith(f"not {value}")


def test_keys_that_are_no_text() -> None:
    assert "ann.1: Keys should be strings" in refusal(ann={1: 2})


def test_environment_is_required() -> None:
    with pytest.raises(ConfigError, match=r"no environment is named.*--env"):
        make_config({})


@pytest.mark.parametrize(
    "settings",
    [
        {"timesteps": -1},
        {"until": 0},
        {"timesteps": 2, "until": 3},
        {"step": 0},
        {"seed": -1},
        {"stack": 0},
        {"hidden": [8, 0]},
        {"hidden": []},
        {"flicker": 1.5},
        {"sticky": -0.1},
        {"threads": 0},
        {"neurons": {"leak_low": 0.9, "leak_high": 0.1}},
        {"neurons": {"leak_high": 1.1}},
        {"neurons": {"percentile": 0}},
        {"neurons": {"gamma": 0}},
        {"validation": {"episodes": 0}},
        {"validation": {"target": float("nan")}},
        {"ann": {"steps": 0}},
        {"ann": {"gamma": 1.0}},
        {"ann": {"n_step": 0}},
        {"ann": {"learning_rate": 0}},
        {"ann": {"learning_rate": float("inf")}},
        {"ann": {"epsilon": [1.5, 0.1]}},
        {"ann": {"epsilon": [0.5]}},
        {"ann": {"explore": 0}},
        {"ann": {"td": [-1, 1]}},
        {"ann": {"td": [float("nan"), 1]}},
        {"ann": {"td": [1, 1, 1]}},
        {"ann": {"td": [0, 0]}},
        {"spiking": {"td": [0, 0], "distill": [0, 0]}},
        {"spiking": {"td": [0, 1], "rollout": 3, "n_step": 3}},
        {"spiking": {"replay": 0, "num_envs": 4, "updates": 5}},
        {"ann": {"replay": 100, "num_envs": 16, "segment": 4}},
    ],
)  # fmt: skip
def test_impossible_values_are_refused(settings: dict[str, Any]) -> None:
    text = refusal(**settings)
    assert next(iter(settings)) in text or "timesteps" in text  # the schedule names its own start


def test_values_at_the_edge_are_accepted() -> None:
    config = make(
        timesteps=1,
        flicker=1,
        ann={"epsilon": [1, 0], "td": [0, 1], "replay": 0, "rollout": 4, "n_step": 3},
        spiking={"td": [0, 0], "distill": [1, 1], "replay": 0, "rollout": 1},
        neurons={"leak_low": 0.5, "leak_high": 0.5},
    )
    assert config.ann.epsilon == [1.0, 0.0]
    smallest = LearnerConfig().num_envs * (1 + LearnerConfig().n_step + 1)
    assert make(ann={"replay": smallest}).ann.replay == smallest
    assert "too small" in refusal(ann={"replay": smallest - 1})


def test_a_stage_without_teacher_needs_the_q_learning_loss() -> None:
    distil_only = {"td": [0, 0], "distill": [1, 1]}
    assert "ann: td is zero" in refusal(ann=distil_only)
    assert make(ann=distil_only, teacher="stack:4").ann.td == [0.0, 0.0]
    given = make(ann=distil_only | {"steps": 0}, start="zoo:CartPole-v1/ann")
    assert given.ann.steps == 0  # it learns nothing, so it needs no teacher
    assert "privileged: td is zero" in refusal(privileged=distil_only, teacher="stack:4")


@pytest.mark.parametrize("teacher", ["stack:", "stack:1", "stack:x", "stack:-2", "stack:²"])
def test_bad_stack_teacher(teacher: str) -> None:
    assert f"teacher {teacher!r} needs a number of frames from 2" in refusal(teacher=teacher)


@pytest.mark.parametrize(
    ("teacher", "frames"),
    [("self", None), ("full_state", None), ("runs/a/T5", None), ("stack:2", 2), ("stack:12", 12)],
)
def test_teacher_syntax(teacher: str, frames: int | None) -> None:
    assert teacher_stack(make(teacher=teacher).teacher) == frames


def test_skip_lists() -> None:
    assert make(skip=[4, 2]).stages() == [5, 3, 1]
    assert make(timesteps=6, step=2, skip=[4]).stages() == [6, 2, 1]
    assert "cannot skip [9]: the stages between are [4, 3, 2]" in refusal(skip=[9, 3])
    assert "cannot skip [5]" in refusal(skip=[5])
    assert "cannot skip [1]" in refusal(skip=[1])


def test_no_timesteps_train_the_ann_alone() -> None:
    assert make(timesteps=0).stages() == []


def test_configuration_cannot_be_changed_afterwards() -> None:
    config = make()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


def test_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("env: A-v0\nann: {learning_rate: 1e-3, epsilon: [1, 5e-2]}  # λ\n", "utf-8")
    assert make_config(read_yaml(file)).ann.epsilon == [1.0, 0.05]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"env: [CartPole", "not valid YAML"),
        (b"env: \xff\xfe", "it is no text"),
        (b"a: b: c", "not valid YAML"),
        (b"x: !!python/name:os.system", "not valid YAML"),
        (b"seed: 2020-99-99", "not valid YAML"),
        (b"- 1\n- 2", "must hold keys and values"),
        (b"", "must hold keys and values"),
        (b"CartPole-v1", "must hold keys and values"),
    ],
)
def test_yaml_file_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="it is no file"):
        read_yaml(tmp_path)


def test_resolved_configuration_survives_a_round_trip(tmp_path: Path) -> None:

    config = make(ann={"learning_rate": 1e-5}, validation={"target": 1e20}, teacher="stack:4")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump()))
    assert make_config(read_yaml(file)) == config


def test_every_neuron_option_reaches_the_model() -> None:
    assert make(neurons={"surrogate": "arctan", "gamma": 2}).neurons == NeuronConfig(
        surrogate="arctan", gamma=2.0
    )
