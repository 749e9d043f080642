"""Presets: each validates, and is found by its environment, its name and the frames seen."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
import yaml

from snn_rl.agents.config import (
    make_config,
)
from snn_rl.agents.presets import with_preset
from snn_rl.errors import ConfigError
from snn_rl.support.settings import shipped_names

PRESETS = sorted(
    file.name.removesuffix(".yaml")
    for file in resources.files("snn_rl.configs").iterdir()
    if file.name.endswith(".yaml") and not file.name.startswith("Atari")
)


def test_every_preset_of_the_repository_is_shipped() -> None:
    files = {file.stem for file in (Path(__file__).parents[1] / "configs").glob("*.yaml")}
    assert files == set(shipped_names()) >= {"CartPole-v1", *PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_validate_and_are_found_by_their_environment(name: str) -> None:
    file = resources.files("snn_rl.configs") / f"{name}.yaml"
    data = yaml.safe_load(file.read_text())
    first = data["env"].replace("/", "-")
    own = None if name == first else name.removeprefix(f"{first}-")
    found = with_preset({"env": data["env"]}, own)
    assert found == data, f"{file} is not named after its environment"
    assert make_config(data).env == data["env"]


def test_the_papers_pipeline_borrows_nothing() -> None:
    config = make_config(with_preset({"env": "PongNoFrameskip-v4"}, "paper"))
    assert (config.teacher, config.stack, config.maxpool, config.start) == ("self", 1, True, None)
    assert min(config.ann.td) > 0
    assert max(config.ann.distill) == 0
    assert config.stages() == [5, 3, 1]
    other = with_preset({"env": "PongNoFrameskip-v4", "seed": 3, "stack": 2}, "paper")
    assert make_config(other).ann == config.ann


@pytest.mark.parametrize(
    ("env", "name", "known"),
    [
        ("PongNoFrameskip-v4", "papers", "it has low-rate, paper"),
        ("PongNoFrameskip-v4", "../PongNoFrameskip-v4-paper", "it has low-rate, paper"),
        ("CartPole-v1", "paper", "it has none but its default"),
        ("", "paper", "no environment has no preset"),
    ],
)
def test_unknown_presets_are_refused_with_those_there_are(env: str, name: str, known: str) -> None:
    with pytest.raises(ConfigError, match=f"no preset {re.escape(repr(name))}") as caught:
        with_preset({"env": env}, name)
    assert known in str(caught.value)


def test_atari_games_without_preset_share_one() -> None:
    shared, other = (with_preset({"env": e}) for e in ("ALE/Breakout-v5", "MsPacmanNoFrameskip-v4"))
    assert shared["privileged"] == other["privileged"]
    assert make_config(shared).teacher == "stack:4"


@pytest.mark.parametrize("env", ["ALE/Breakout-v5", "PongNoFrameskip-v4"])
def test_an_ann_that_sees_several_frames_of_a_game_learns_by_itself(env: str) -> None:
    config = make_config(with_preset({"env": env, "stack": 4}))
    assert config.teacher == "self"
    assert config.stack == 4
    assert min(config.ann.td) > 0
    assert config.ann == make_config(with_preset({"env": env})).privileged


def test_environments_without_preset_use_the_defaults() -> None:
    for env in ("Acrobot-v1", "../configs/CartPole-v1"):
        assert with_preset({"env": env}) == {"env": env}
    own = with_preset({"env": "PositionOnlyCartPole-v1"})
    assert with_preset({"env": own["env"], "stack": 4}) == own | {"stack": 4}


def test_settings_given_count_more_than_the_preset() -> None:
    given = {"env": "CartPole-v1", "ann": {"steps": 7}}
    assert with_preset(given)["ann"] == with_preset({"env": "CartPole-v1"})["ann"] | {"steps": 7}
