"""Atari games in ALE's vector environment: seeds, restarts, resuming, and the very frames."""

import base64
import functools
import json
from collections.abc import Iterator
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest

from snn_rl.envs import (
    UNBLANKED,
    AtariVector,
    EnvironmentSpec,
    Flicker,
    RestoreError,
    UnsupportedEnvironment,
    atari_game,
    check_spaces,
    episode_seed,
    make_vector,
    restore,
    snapshot,
)
from snn_rl.envs.observation import pipeline_for, pipeline_from_dict
from snn_rl.envs.spaces import describe, make_single
from snn_rl.envs.wrappers import VectorFlicker

PONG, BREAKOUT = "PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"
ENTRY = "ale_py.env:AtariEnv"


single = functools.cache(make_single)  # loading a ROM takes as long as 200 decisions


def spec_of(env_id: str) -> EnvironmentSpec:
    return describe(env_id, single(env_id))


@pytest.fixture
def register() -> Iterator[Any]:
    added = []

    def add(name: str, **kwargs: Any) -> str:
        gym.register(name, entry_point=ENTRY, kwargs=kwargs)
        added.append(name)
        return name

    yield add
    for name in added:
        del gym.registry[name]


def actions_for(vector: gym.vector.VectorEnv, count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    limit = vector.single_action_space.n  # type: ignore[attr-defined]
    return generator.integers(limit, size=(count, vector.num_envs))


def play(vector: gym.vector.VectorEnv, actions: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    return [vector.step(action)[:4] for action in actions]


def same(first: list[tuple[np.ndarray, ...]], second: list[tuple[np.ndarray, ...]]) -> bool:
    return all(
        np.array_equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def plain_game(env_id: str, seed: int, frame_number: int) -> Any:
    """Gymnasium's environment, not sticky, seeded and brought to a frame as the vector does."""
    env: Any = single(env_id).unwrapped
    env.ale.setFloat("repeat_action_probability", 0.0)
    env.ale.setInt("random_seed", seed)
    env.load_game()
    env.ale.reset_game()
    while env.ale.getEpisodeFrameNumber() < frame_number:
        env.ale.act(0)
    return env


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
        register("Memory-v0", game="pong", obs_type="ram"): "only 1-D float boxes and 2-D or 3-D",
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


def test_a_replay_that_ends_early_is_refused() -> None:
    vector = make_vector(BREAKOUT, 1, seed=0)
    vector.reset()
    while not vector.step(np.array([1]))[2][0]:
        pass
    records = snapshot(vector)
    longer = base64.b64encode(base64.b64decode(records[0]["actions"]) + bytes(2)).decode()
    with pytest.raises(RestoreError, match="ended after"):
        restore(vector, [records[0] | {"actions": longer}])
