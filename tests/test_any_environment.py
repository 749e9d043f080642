"""Any environment with discrete actions is played as it is, and named when it fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from short_runs import short
from test_failing_environments import ZERO, Odd

import snn_rl
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.looks import Looks
from snn_rl.agents.qnetwork import build_network
from snn_rl.agents.run import Run
from snn_rl.agents.setup import Setup
from snn_rl.envs import check_spaces, make, make_vector
from snn_rl.envs.observation import pipeline_for
from snn_rl.envs.spaces import make_single
from snn_rl.support.settings import merge

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from environments import OWN, Case, Remembering, by_hand, register_envs

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def own() -> Iterator[None]:
    register_envs()
    yield
    for name in OWN:
        del gym.registry[name]


@pytest.mark.parametrize(
    ("env_id", "kind", "frame"),
    [
        ("FrozenLake-v1", "vector", (16,)),
        ("Taxi-v4", "vector", (500,)),
        ("Blackjack-v1", "vector", (45,)),
        ("SeenDict-v0", "vector", (5,)),
        ("SeenMultiDiscrete-v0", "vector", (7,)),
        ("SeenMultiBinary-v0", "vector", (5,)),
        ("SeenIntegers-v0", "vector", (6,)),
        ("SeenMatrix-v0", "vector", (6,)),
        ("SeenFloats-v0", "planes", (2, 12, 9)),
        ("SeenChannelsFirst-v0", "image", (1, 84, 84)),
        ("SeenSmall-v0", "planes", (1, 11, 13)),
        ("SeenFourChannels-v0", "planes", (4, 84, 84)),
        ("StartAtFive-v0", "vector", (3,)),
    ],
)
def test_every_space_has_frames_and_a_network(
    env_id: str, kind: str, frame: tuple[int, ...]
) -> None:
    spec = check_spaces(env_id)
    pipeline = pipeline_for(spec)
    assert (spec.kind, pipeline.frame_shape) == (kind, frame)
    network = build_network(frame, spec.num_actions, stack=1, hidden=[8])
    assert network.shapes[network.nodes[-1].name] == (spec.num_actions,)
    vector = make_vector(env_id, 2, seed=0)
    frames = pipeline.encode(vector.reset()[0])
    assert frames.shape == (2, *frame)
    vector.step(np.array([0, spec.num_actions - 1]))  # counted from 0, whatever the first one is
    vector.close()


def test_pixels_keep_their_values() -> None:
    """Bits become black and white, numbers levels between their bounds, bytes stay."""
    for space, sample, shown in [
        (spaces.Box(0, 1, (5, 5, 2), np.bool_), True, 255),
        (spaces.Box(-1, 1, (5, 5, 2), np.float32), 0.5, 191),
        (spaces.Box(0, 255, (5, 5, 2), np.uint8), 7, 7),
    ]:
        gym.register("Pixels-v0", Remembering, kwargs={"seen": space})
        env = make_single("Pixels-v0")
        env.unwrapped.reset = lambda sample=sample, space=space, **_: (  # type: ignore[method-assign]
            np.full(space.shape, sample, space.dtype), {}
        )  # fmt: skip
        observation, _ = env.reset(seed=0)
        del gym.registry["Pixels-v0"]
        assert (observation.shape, observation.dtype) == ((2, 5, 5), np.uint8)
        assert set(observation.ravel().tolist()) == {shown}


@pytest.mark.parametrize(
    "case",
    [
        Case("FrozenLake-v1", kwargs={"map_name": "8x8", "is_slippery": False}),
        Case("Blackjack-v1"),
        Case("SeenFloats-v0"),
        Case("StartAtFive-v0"),
    ],
    ids=lambda case: case.env,
)
def test_a_loop_by_hand_gives_the_score_of_evaluate(tmp_path: Path, case: Case) -> None:
    class Quiet:
        def progress(self, progress: Any) -> None: ...
        def validated(self, progress: Any, evaluation: Any) -> None: ...
        def should_stop(self) -> bool:
            return False

    settings = short(**merge({"env": case.env, "timesteps": 1}, {"env_kwargs": case.kwargs}))
    Run(settings, tmp_path / "run", Quiet()).train()
    agent = snn_rl.load_agent(tmp_path / "run" / "T1")
    assert agent.env_kwargs == case.kwargs
    row = evaluate_agent(agent, case.env, trials=3, max_frames=100)
    assert row["rewards"] == by_hand(agent, 3, 100)


def test_an_atari_game_by_hand() -> None:
    """Frame skip, pooling and pixels as trained: plain Gymnasium's are others."""
    agent = snn_rl.load_agent("zoo:PongNoFrameskip-v4/T1")
    row = evaluate_agent(agent, "pong", trials=1, max_frames=150)
    assert row["rewards"] == by_hand(agent, 1, 150)
    env = make(agent)
    assert (env.reset(seed=1)[0].shape, env.observation_space.shape) == ((1, 84, 84),) * 2
    env.close()


def test_frames_as_gymnasium_preprocesses_them_are_taken() -> None:
    agent = snn_rl.load_agent("zoo:PongNoFrameskip-v4/T1")
    frame = np.random.default_rng(0).integers(0, 256, (84, 84), np.uint8)
    values = []
    for drawn in (frame, frame[..., None], frame[None]):
        agent.reset()
        values.append(agent.q_values(drawn).tolist())
    assert values[0] == values[1] == values[2]
    agent.reset()
    assert agent.q_values(np.stack([frame, frame])).tolist() == [values[0], values[0]]


def test_preprocessed_frames_are_told_to_be_max_pooled(caplog: pytest.LogCaptureFixture) -> None:
    agent = snn_rl.load_agent("zoo:PongNoFrameskip-v4/T1")
    agent.act(np.zeros((1, 84, 84), np.uint8))
    assert caplog.text == ""
    agent = snn_rl.load_agent("zoo:PongNoFrameskip-v4/T1")
    for _ in range(2):
        agent.act(np.zeros((84, 84), np.uint8))
    assert caplog.text.count("are max-pooled, but this agent was trained without") == 1
    assert "snn_rl.envs.make(agent) shows the frames" in caplog.text


@pytest.mark.parametrize(("pixels", "told"), [(44, False), (20, True)])
def test_screens_that_change_too_little_are_told(
    caplog: pytest.LogCaptureFixture, pixels: int, told: bool
) -> None:
    agent = snn_rl.load_agent("zoo:PongNoFrameskip-v4/T1")
    looks, frames = Looks(agent.pipeline, agent.card), np.zeros((64, 1, 84, 84), np.uint8)
    while not looks.over:
        frames.reshape(64, -1)[:, :pixels] ^= 1
        looks.observe((64, 210, 160, 3), frames, np.zeros(64, np.bool_))
    assert ("change in 20 pixels each" in caplog.text) == told
    assert told or caplog.text == ""


def test_games_without_an_end_are_cut_off_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    step = (ZERO, 1.0, False, False, {})
    gym.register("Endless-v0", Odd, kwargs={"step": step})
    monkeypatch.setattr("snn_rl.agents.conditions.LONGEST_GAME", 50)
    monkeypatch.setattr("snn_rl.agents.evaluation.SECONDS_BETWEEN_LINES", 0)
    caplog.set_level(logging.INFO, "snn_rl.agents.evaluation")
    try:
        Setup(short(env="Endless-v0"))
        assert "no limit of time: games are cut off after 50 frames" in caplog.text
        assert "--set validation.max_frames=N" in caplog.text
        agent = snn_rl.load_agent("zoo:PositionOnlyCartPole-v1/T1")
        agent.card["environment"] = {"env_id": "Endless-v0", "num_actions": 2}
        row = evaluate_agent(agent, "endless", trials=2)
        assert (row["lengths"], row["truncated"]) == ([50, 50], 2)
        assert "--max-frames sets another" in caplog.text
        assert "Endless-v0: 2 of 2 games go on at frame 49" in caplog.text
    finally:
        del gym.registry["Endless-v0"]
