"""Settings on the command line: `--set` texts, and how mappings are merged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from snn_rl.agents.config import (
    LearnerConfig,
    TrainConfig,
    make_config,
)
from snn_rl.agents.presets import with_preset
from snn_rl.commands import training
from snn_rl.errors import ConfigError
from snn_rl.support.settings import merge, override, parse_overrides


def test_overrides_are_nested_and_typed() -> None:
    texts = ["ann.steps=2000", "ann.td=[1, 0.5]", "carry_membrane=false", "teacher=stack:4"]
    texts += ["env=ALE/Pong-v5", "validation.target=null", "ann.steps=3000"]
    overrides = parse_overrides(texts)
    assert overrides == {
        "ann": {"steps": 3000, "td": [1, 0.5]},
        "carry_membrane": False,
        "teacher": "stack:4",
        "env": "ALE/Pong-v5",
        "validation": {"target": None},
    }
    assert make_config(overrides).ann.steps == 3000


@pytest.mark.parametrize("text", ["5e-4", "5E-4", "5.0e-4", "0.0005", "+5e-04"])
def test_overrides_read_every_way_to_write_a_number(text: str) -> None:
    overrides = parse_overrides([f"ann.learning_rate={text}"])
    assert make_config({"env": "CartPole-v1"} | overrides).ann.learning_rate == 0.0005


def test_numbers_in_a_path_are_the_keys_of_mappings_by_number() -> None:
    assert parse_overrides(["spiking.epochs_at.1=2"]) == {"spiking": {"epochs_at": {1: 2}}}


def test_what_looks_like_a_number_only_in_part_stays_text() -> None:
    assert parse_overrides(["teacher=5e4x", "device=1e"]) == {"teacher": "5e4x", "device": "1e"}


def test_overrides_may_contain_equals_signs() -> None:
    assert parse_overrides(["teacher=runs/a=b/T1"]) == {"teacher": "runs/a=b/T1"}


@pytest.mark.parametrize("override", ["ann.steps", "=3", "", "ann.td=[1", "seed=2020-99-99"])
def test_overrides_that_cannot_be_read(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_overrides([override])


def test_override_of_a_value_inside_no_section_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed"):
        make_config({"env": "CartPole-v1"} | parse_overrides(["seed.x=1"]))


def test_overrides_execute_nothing() -> None:
    with pytest.raises(ConfigError, match="not a YAML value"):
        parse_overrides(["seed=!!python/object/apply:os.getpid []"])


def test_merge_goes_section_by_section_and_changes_no_argument() -> None:
    base = {"env": "A", "ann": {"steps": 1, "gamma": 0.9}, "skip": [4]}
    changes = {"ann": {"steps": 2}, "skip": [3], "validation": {"every": 5}}
    assert merge(base, changes) == {
        "env": "A",
        "ann": {"steps": 2, "gamma": 0.9},
        "skip": [3],
        "validation": {"every": 5},
    }
    assert base == {"env": "A", "ann": {"steps": 1, "gamma": 0.9}, "skip": [4]}
    assert changes["ann"] == {"steps": 2}


def test_merge_replaces_what_is_no_section() -> None:
    assert merge({"ann": 5}, {"ann": {"steps": 1}}) == {"ann": {"steps": 1}}
    assert merge({"ann": {"steps": 1}}, {"ann": 5}) == {"ann": 5}


def test_an_empty_mapping_empties_a_section() -> None:
    base = {"env": "A", "ann": {"steps": 1, "gamma": 0.9}}
    assert merge(base, {"ann": {}}) == {"env": "A", "ann": {}}
    assert merge({"ann": {}}, {"ann": {"steps": 1}}) == {"ann": {"steps": 1}}
    assert override(base, ["ann.steps=5", "ann={}", "ann.gamma=0.5"])["ann"] == {"gamma": 0.5}
    assert override(base, ["ann.steps=5"])["ann"] == {"steps": 5, "gamma": 0.9}


def test_the_command_line_empties_a_section_of_the_preset(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainConfig] = []
    monkeypatch.setattr(training, "_train", lambda settings, *_, **__: seen.append(settings))
    preset = with_preset({"env": "PongNoFrameskip-v4"})["ann"]
    assert preset["steps"] != LearnerConfig().steps
    options = ("--set", "ann={}", "--set", "ann.n_step=7")
    assert call("train", "--env", "PongNoFrameskip-v4", *options)[0] == 0
    assert seen[0].ann == LearnerConfig(n_step=7)
