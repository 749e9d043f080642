"""FIRE opens every life where an agent's home pressed it: in the card, in play, after a resume."""

from __future__ import annotations

from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snn_rl
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.agents.show.game import Show
from snn_rl.agents.sources import settings_for
from snn_rl.envs import UnsupportedEnvironment, make, make_vector, restore, snapshot
from snn_rl.envs.fire import OPENING
from snn_rl.errors import SnnRlError

BREAKOUT, FREEWAY = "BreakoutNoFrameskip-v4", "FreewayNoFrameskip-v4"
NOTHING, LEFT = 0, 3


def play(vector: Any, frames: int, seed: int = 0) -> list[Any]:
    """Random actions; (frame, lives, action taken) after each."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(frames):
        actions = generator.integers(vector.action_space.nvec)
        frame, _, terminated, _, info = vector.step(actions)
        found.append((frame, info["lives"].copy(), vector.taken(0), terminated))
    return found


def test_fire_opens_every_life_whatever_is_chosen() -> None:
    vector = make_vector(BREAKOUT, 1, seed=0, fire_reset=True)
    _, info = vector.reset(seed=[3])
    lives, due, lost = info["lives"][0], list(OPENING), 0
    for _ in range(300):
        *_, info = vector.step(np.array([LEFT]))
        if info["lives"][0] == 0:
            break
        assert vector.taken(0) == (due.pop(0) if due else LEFT)  # type: ignore[attr-defined]
        if info["lives"][0] < lives:
            lives, due, lost = info["lives"][0], list(OPENING), lost + 1
    assert lost == 4, "no ball without FIRE, no life lost without a ball"


def test_without_it_nobody_presses_fire() -> None:
    vector = make_vector(BREAKOUT, 1, seed=0)
    first, _ = vector.reset(seed=[3])
    for _ in range(50):
        frame, *_ = vector.step(np.array([NOTHING]))
    np.testing.assert_array_equal(frame, first)


def test_it_is_the_plain_game_under_the_actions_that_are_taken() -> None:
    opened, plain = (make_vector(BREAKOUT, 1, seed=0, fire_reset=on) for on in (True, False))
    first, _ = opened.reset(seed=[5])
    np.testing.assert_array_equal(first, plain.reset(seed=[5])[0])
    for frame, lives, taken, terminated in play(opened, 400):
        if terminated[0]:
            break
        seen, _, _, _, info = plain.step(np.array([taken]))
        np.testing.assert_array_equal(frame, seen)
        assert info["lives"] == lives


@pytest.mark.parametrize("frames", [1, 60])
def test_a_restored_game_knows_when_fire_is_due(frames: int) -> None:
    """Also where a life has just been lost in one of the games."""
    vector = make_vector(BREAKOUT, 3, seed=0, fire_reset=True)
    vector.reset()
    before = play(vector, frames)
    for _ in range(200):
        if frames < 60 or (before[-1][1] < before[-2][1]).any():
            break
        before += play(vector, 1, len(before))
    records = snapshot(vector)
    again = make_vector(BREAKOUT, 3, seed=9, fire_reset=True)
    restore(again, records)
    for a, b in zip(play(vector, 120, 1), play(again, 120, 1), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[2] == b[2]


def test_only_games_with_fire_have_it() -> None:
    with pytest.raises(UnsupportedEnvironment, match="knows no FIRE"):
        make_vector(FREEWAY, 1, seed=0, fire_reset=True)
    with pytest.raises(ValueError, match="fire_reset is for Atari games"):
        make_vector("CartPole-v1", 1, seed=0, fire_reset=True)
    with pytest.raises(SnnRlError, match="knows no FIRE"):
        snn_rl.from_torch(images(3), FREEWAY, fire_reset=True)


def images(actions: int) -> nn.Module:
    """A network that chooses by what it sees."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 4, 12, stride=12)
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(196, actions))


def test_a_saved_agent_is_played_as_at_home(tmp_path: Path) -> None:
    snn_rl.from_torch(images(4), BREAKOUT, fire_reset=True).save(tmp_path / "fire")
    agent = snn_rl.load_agent(tmp_path / "fire")
    assert agent.fire_reset and agent.card["environment"]["fire_reset"]
    assert any("FIRE" in said for said in agent.card["imported"]["differences"])
    result = evaluate_agent(agent, "fire", trials=2, max_frames=300)
    assert result["fire_reset"]
    env, totals = make(agent), []
    for seed in evaluation_seeds(0, 2):
        observation, _ = env.reset(seed=seed)
        agent.reset()
        total, over, frames = 0.0, False, 0
        while not over and frames < 300:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            total, over, frames = total + reward, terminated or truncated, frames + 1
        totals.append(total)
    assert totals == result["rewards"]


def test_what_is_shown_is_what_is_played() -> None:
    agent = snn_rl.from_torch(images(4), BREAKOUT, fire_reset=True)
    with closing(Show(agent, trained_in(agent))) as show:
        moments = list(islice(show.play(evaluation_seeds(0, 1)), 40))
    assert any((a.seen != b.seen).any() for a, b in pairwise(moments)), "the ball flies"
    for moment in moments:
        assert moment.picture is not None
        np.testing.assert_array_equal(agent.pipeline.encode(moment.picture[None])[0], moment.seen)


def test_a_run_from_it_trains_under_it(tmp_path: Path) -> None:
    snn_rl.from_torch(images(4), BREAKOUT, fire_reset=True).save(tmp_path / "fire")
    found = settings_for({"env": BREAKOUT, "start": str(tmp_path / "fire")})
    assert (found["fire_reset"], found["maxpool"], found["teacher"]) == (True, False, "self")
