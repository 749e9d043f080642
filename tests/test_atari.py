"""Atari games in ALE's vector environment: seeds, restarts, resuming, and the very frames."""

import json
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
from atari_games import BREAKOUT, PONG, actions_for, plain_game, play, spec_of

from snn_rl.envs import (
    AtariVector,
    RestoreError,
    UnsupportedEnvironment,
    atari_game,
    check_spaces,
    make_vector,
    restore,
    snapshot,
)
from snn_rl.envs.observation import pipeline_for, pipeline_from_dict
from snn_rl.envs.spaces import make_single


@pytest.mark.parametrize(
    ("env_id", "sticky"),
    [
        (PONG, 0.0),
        ("PongNoFrameskip-v0", 0.25),
        ("ALE/Pong-v5", 0.25),
        ("ale_py:ALE/Pong-v5", 0.25),
    ],
)
def test_ids_keep_what_they_promise(env_id: str, sticky: float) -> None:
    game = atari_game(env_id)
    assert game is not None
    assert (game.rom, game.frame_skip, game.sticky) == ("pong", 4, sticky)
    assert (game.full_action_space, game.decisions) == (False, 27_000)


def test_other_ids(register: Any) -> None:
    name = register("Skip3-v0", game="pong", frameskip=3, max_num_frames_per_episode=10)
    game = atari_game(name)
    assert game is not None
    assert (game.frame_skip, game.decisions, game.sticky) == (3, 4, 0.25)
    assert make_single(name).unwrapped._frameskip == 3  # type: ignore[attr-defined]
    assert atari_game("CartPole-v1") is None


def test_what_cannot_be_honoured_is_refused(register: Any, monkeypatch: Any) -> None:
    refusals = {
        "Pong-v4": "'Pong-v4' skips a random number of frames, 2 to 4, .* choose the game's No",
        register("Hard-v0", game="pong", difficulty=1): "'Hard-v0' sets difficulty, which",
        register("NoGame-v0", game="no_game"): "needs the ROM 'no_game', .* is not one of ALE's",
        "PongDeterministic-v4": "environment 'PongDet.*: did you mean 'PongNoFrameskip-v4'",
    }
    for env_id, message in refusals.items():
        for refuse in (check_spaces, lambda env_id: make_vector(env_id, 1, seed=0)):
            with pytest.raises(UnsupportedEnvironment, match=message) as caught:
                refuse(env_id)
            assert "\n" not in str(caught.value)

    def missing(name: str) -> None:
        raise FileNotFoundError(f"no file\n{name}.bin")

    monkeypatch.setattr("ale_py.roms.get_rom_path", missing)
    with pytest.raises(UnsupportedEnvironment, match=r"ROM 'pong', .* load: no file pong.bin"):
        check_spaces(PONG)


def test_spaces() -> None:
    vector = make_vector(PONG, 1, seed=0)
    assert isinstance(vector, AtariVector)
    spec = check_spaces(PONG)
    assert (spec.observation_shape, spec.num_actions, spec.kind) == ((210, 160, 3), 6, "image")
    assert vector.single_action_space == gym.spaces.Discrete(6)
    frames, _ = vector.reset()
    assert vector.observation_space.contains(frames)
    pipeline = pipeline_for(spec)
    assert pipeline.frame_shape == (1, 84, 84)
    assert pipeline_from_dict(json.loads(json.dumps(pipeline.to_dict()))) == pipeline
    np.testing.assert_array_equal(pipeline.encode(frames), frames)
    _, rewards, terminated, truncated, _ = vector.step(np.zeros(1, np.int32))
    assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float32, bool, bool)


# Laser Gates has a colour that OpenCV's formula turns into another grey than ALE's.
@pytest.mark.parametrize(
    ("env_id", "length"), [(PONG, 1000), (BREAKOUT, 2000), ("ALE/LaserGates-v5", 80)]
)
def test_a_raw_frame_gives_the_frame_of_the_vector(env_id: str, length: int) -> None:
    pipeline = pipeline_for(spec_of(env_id))
    vector = make_vector(env_id, 1, seed=0, sticky=0.0)
    frames, info = vector.reset(seed=[5])
    env = plain_game(env_id, 5, int(info["episode_frame_number"][0]))
    raw, done, count = env.ale.getScreenRGB(), False, 0
    for action in actions_for(vector, length):
        np.testing.assert_array_equal(pipeline.encode(raw[None]), frames)
        assert pipeline.is_single(raw)
        frames, reward, terminated, _, _ = vector.step(action)
        raw, expected, done, _, _ = env.step(int(action[0]))
        assert (reward[0], terminated[0]) == (expected, done)
        count += 1
        if done:
            break
    assert done or count == length


def test_maxpool_is_the_maximum_of_the_last_two_raw_frames() -> None:
    vector = make_vector(PONG, 1, seed=0, maxpool=True)
    _, info = vector.reset(seed=[5])
    ale = plain_game(PONG, 5, int(info["episode_frame_number"][0])).ale
    buttons = ale.getMinimalActionSet()
    for action in actions_for(vector, 60):
        greys = []
        for _ in range(4):
            ale.act(buttons[action[0]])
            greys.append(ale.getScreenGrayscale())
        pooled = cv2.resize(np.maximum(*greys[2:]), (84, 84), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(vector.step(action)[0][0, 0], pooled)


def test_misuse_is_refused() -> None:
    vector = make_vector(PONG, 2, seed=0)
    with pytest.raises(gym.error.ResetNeeded):
        vector.step(np.zeros(2, np.int64))
    with pytest.raises(RestoreError, match="never reset"):
        snapshot(vector)
    for seeds in ([1, -1], [2**31, 0], [1]):
        with pytest.raises(ValueError, match="seeds"):
            vector.reset(seed=seeds)
    with pytest.raises(ValueError, match="no reset options"):
        vector.reset(options={"low": 0})
    vector.reset()
    for actions in (np.array([0, 6]), np.array([0, -1]), np.zeros(3, np.int64), np.zeros(2)):
        with pytest.raises(ValueError, match="actions"):
            vector.step(actions)
    play(vector, actions_for(vector, 3))
    records = snapshot(vector)
    with pytest.raises(RestoreError, match="1 environments, not 2"):
        restore(vector, records[:1])
    with pytest.raises(RestoreError, match="damaged"):
        restore(vector, [record | {"actions": [0, 1]} for record in records])
    with pytest.raises(RestoreError, match="beyond the game's 6"):
        restore(vector, [record | {"actions": "CQkJ"} for record in records])
    with pytest.raises(RestoreError, match="another observation"):
        restore(vector, [record | {"actions": "AAAA"} for record in records])
    with pytest.raises(ValueError, match="threads >= 1"):
        make_vector(PONG, 2, seed=0, threads=0)
    vector.close()
