"""Atari games at play: seeds, restarts, resuming, flicker and sticky actions."""

import base64
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from atari_games import (
    BREAKOUT,
    PONG,
    actions_for,
    plain_game,
    play,
    spec_of,
)

from snn_rl.envs import (
    UNBLANKED,
    Flicker,
    RestoreError,
    episode_seed,
    make_vector,
    restore,
    snapshot,
)
from snn_rl.envs.observation import pipeline_for
from snn_rl.envs.wrappers import VectorFlicker


def same(first: list[tuple[np.ndarray, ...]], second: list[tuple[np.ndarray, ...]]) -> bool:
    return all(
        np.array_equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_seeds_determine_every_episode() -> None:
    vector = make_vector("ALE/Breakout-v5", 2, seed=3, flicker=0.2)
    frames, _ = vector.reset()
    kept, actions = frames.copy(), actions_for(vector, 40)
    first = play(vector, actions)
    np.testing.assert_array_equal(frames, kept)
    again, _ = vector.reset(seed=[episode_seed(3, 0, 0), episode_seed(3, 1, 0)])
    np.testing.assert_array_equal(again, frames)
    assert same(first, play(vector, actions))

    vector.reset(seed=np.int64(0))  # type: ignore[arg-type]
    assert not same(first, play(vector, actions))
    # Episode 1 of base seed 0 at index 0, and of base seed 1 at index 1.
    second, info = vector.reset()
    expected, expected_info = vector.reset(seed=[episode_seed(0, 0, 1), episode_seed(1, 1, 1)])
    np.testing.assert_array_equal(second, expected)
    number = "episode_frame_number"  # tells how many no-ops opened the episode
    np.testing.assert_array_equal(info[number], expected_info[number])


def test_the_step_after_an_end_is_the_next_start() -> None:
    seeds = [11, 12]
    vector = make_vector(BREAKOUT, 2, seed=0)
    alone = make_vector(BREAKOUT, 1, seed=0)
    vector.reset(seed=seeds)
    alone.reset(seed=seeds[1:])
    actions = actions_for(vector, 3000)
    actions[:, 0] = np.arange(3000) % 2  # fire, and let the ball drop: all lives are soon gone
    ends = 0
    for action in actions:
        frames, rewards, terminated, truncated, info = vector.step(action)
        # The other game goes on undisturbed.
        expected = alone.step(action[1:])
        np.testing.assert_array_equal(frames[1], expected[0][0])
        assert (rewards[1], terminated[1]) == (expected[1][0], expected[2][0])
        if ends:
            break
        ends += int(terminated[0])
    assert ends == 1
    assert (rewards[0], terminated[0], truncated[0], info["lives"][0]) == (0, False, False, 5)
    alone.reset(seed=[11])
    start, start_info = alone.reset()
    np.testing.assert_array_equal(frames[0], start[0])
    assert info["episode_frame_number"][0] == start_info["episode_frame_number"][0]
    np.testing.assert_array_equal(vector.step(action)[0][0], alone.step(action[:1])[0][0])


@pytest.mark.parametrize(("explicit", "at_end"), [(True, False), (False, True)])
def test_restored_run_equals_the_uninterrupted_one(explicit: bool, at_end: bool) -> None:
    vector = make_vector(BREAKOUT, 2, seed=1, flicker=0.3, sticky=0.25)
    vector.reset(seed=[7, 8] if explicit else None)
    actions = actions_for(vector, 2000)
    ended, count = 0, 0
    while ended < (1 if at_end else 2):  # the other stop is two steps into a second episode
        frames, _, terminated, _, info = vector.step(actions[count])
        ended += int(terminated.any() or ended > 0)
        count += 1
    text = json.dumps(snapshot(vector))
    rest = actions[count : count + 40]
    uninterrupted = play(vector, rest)

    other = make_vector(BREAKOUT, 2, seed=99, flicker=0.3, sticky=0.25)
    restored, restored_info = restore(other, json.loads(text))
    np.testing.assert_array_equal(restored, frames)
    for name, values in info.items():
        if name != "frame_number":  # counts from the loading of the ROM, dummy steps included
            np.testing.assert_array_equal(restored_info[name], values)
    assert json.dumps(snapshot(other)) == text
    assert same(uninterrupted, play(other, rest))
    assert snapshot(other) == snapshot(vector)


@pytest.mark.parametrize("env_id", [BREAKOUT, "SeaquestNoFrameskip-v4"])
def test_starts_without_a_seed_are_restored(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snn_rl.envs.atari.SEED_EVERY", 3)
    vector = make_vector(env_id, 2, seed=4)
    vector.reset()
    actions = actions_for(vector, 3000)
    count = 0
    for episode in (1, 2, 3, 5):
        while min(record["episode"] for record in snapshot(vector)) < episode:
            play(vector, actions[count : count + 25])
            count += 25
        other = make_vector(env_id, 2, seed=99)
        restore(other, snapshot(vector))
        rest = actions[count : count + 200]  # past the end of an episode, too
        count += len(rest)
        assert same(play(vector, rest), play(other, rest))
        assert snapshot(other) == snapshot(vector)


def test_a_seed_is_due_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snn_rl.envs.atari.SEED_EVERY", 3)
    vector, alone = (make_vector(BREAKOUT, 1, seed=4) for _ in range(2))
    infos = [vector.reset()[1] for _ in range(4)]
    for episode in (0, 3):
        _, info = alone.reset(seed=[episode_seed(4, 0, episode)])
        assert info["frame_number"] == infos[episode]["frame_number"]
    assert infos[3]["frame_number"] < infos[2]["frame_number"]  # the ROM was read anew


def test_truncation_shows_the_last_frame_and_restores(register: Any) -> None:
    name = register(
        "Short-v0",
        game="pong",
        frameskip=1,
        repeat_action_probability=0.0,
        max_num_frames_per_episode=38,
    )
    vector = make_vector(name, 1, seed=0)
    _, info = vector.reset(seed=[5])
    env = plain_game(PONG, 5, int(info["episode_frame_number"][0]))
    actions = actions_for(vector, 10)
    steps = play(vector, actions)
    assert [bool(step[3][0]) for step in steps] == [False] * 9 + [True]
    assert not any(step[2][0] for step in steps)
    for action in actions:
        raw, *_ = env.step(int(action[0]))
    np.testing.assert_array_equal(pipeline_for(spec_of(PONG)).encode(raw[None]), steps[-1][0])

    records = snapshot(vector)
    start, _, terminated, truncated, _ = vector.step(actions[0])
    assert not terminated[0] and not truncated[0]
    other = make_vector(name, 1, seed=9)
    other.reset(seed=[5])
    expected, _ = other.reset()
    np.testing.assert_array_equal(start, expected)
    restore(other, records)
    np.testing.assert_array_equal(other.step(actions[3])[0], start)
    assert snapshot(other)[0]["actions"] == ""
    restored, _ = restore(vector, snapshot(other))
    np.testing.assert_array_equal(restored, start)


def test_sticky_overrides_the_id() -> None:
    held = make_vector(PONG, 1, seed=0, sticky=1.0)
    idle = make_vector("ALE/Pong-v5", 1, seed=0, sticky=0.0)
    promised = make_vector("ALE/Pong-v5", 1, seed=0)
    for vector in (held, idle, promised):
        vector.reset(seed=[5])
    actions = actions_for(held, 60)
    # Always repeating means repeating the no-op before the first action.
    assert same(play(held, actions), play(idle, np.zeros_like(actions)))
    idle.reset(seed=[5])
    assert not same(play(promised, actions), play(idle, actions))


def test_flicker_is_that_of_the_wrapper() -> None:
    class White(gym.Env[np.ndarray, int]):
        observation_space = gym.spaces.Box(0, 255, (3, 3), np.uint8)
        action_space = gym.spaces.Discrete(1)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.ones((3, 3), np.uint8), {}

        def step(self, action: int) -> Any:
            return np.ones((3, 3), np.uint8), 0.0, False, False, {}

    env = Flicker(White(), 0.3)
    expected = [bool(env.reset(seed=4)[0].any())]
    expected += [bool(env.step(0)[0].any()) for _ in range(1299)]
    both = VectorFlicker(0.3, 2)
    both.begin(0, 3)
    both.begin(1, 4)
    shown = []
    for number in range(1300):
        frames = np.ones((2, 1, 3, 3), np.uint8)
        both.blank(frames, np.array([number // 7, number]), {})
        shown.append(bool(frames[1].any()))
    assert shown == expected
    assert 0.25 < 1 - np.mean(shown) < 0.35


def test_flicker_blanks_frames_of_the_game() -> None:
    shown, blanked = (make_vector(PONG, 1, seed=0, flicker=p) for p in (0.0, 0.4))
    frames = shown.reset()[0]
    blanks, info = blanked.reset()
    rate = []
    for action in actions_for(shown, 100):
        np.testing.assert_array_equal(info[UNBLANKED], frames)
        blank = ~blanks.any(axis=(1, 2, 3))
        np.testing.assert_array_equal(blanks[~blank], frames[~blank])
        rate.append(blank)
        frames = shown.step(action)[0]
        blanks, _, _, _, info = blanked.step(action)
    assert 0.25 < np.mean(rate) < 0.55


def test_sticky_actions_elsewhere() -> None:
    def states(sticky: float | None, choice: int) -> np.ndarray:
        vector = make_vector("CartPole-v1", 8, seed=0, sticky=sticky)
        vector.reset()
        actions = np.tile([[0], [choice]], (4, 8))
        return np.array([vector.step(action)[0] for action in actions])

    assert np.array_equal(states(0.25, 1), states(0.25, 1))
    assert np.array_equal(states(1.0, 1), states(None, 0))
    # Started equally, an environment differs from the untouched one once an action repeats.
    differing = (states(0.25, 1) != states(None, 1)).any(axis=2)
    assert not differing[0].any()
    assert differing[-1].any()
    for bad in (-0.1, 1.5, float("nan")):
        for env_id in ("CartPole-v1", PONG):
            with pytest.raises(ValueError, match="sticky is a probability"):
                make_vector(env_id, 1, seed=0, sticky=bad)
    with pytest.raises(ValueError, match="maxpool is for Atari games"):
        make_vector("CartPole-v1", 1, seed=0, maxpool=True)


def test_a_replay_that_ends_early_is_refused() -> None:
    vector = make_vector(BREAKOUT, 1, seed=0)
    vector.reset()
    while not vector.step(np.array([1]))[2][0]:
        pass
    records = snapshot(vector)
    longer = base64.b64encode(base64.b64decode(records[0]["actions"]) + bytes(2)).decode()
    with pytest.raises(RestoreError, match="ended after"):
        restore(vector, [records[0] | {"actions": longer}])
