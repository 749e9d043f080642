"""Environments: what they show, that they repeat, and that they resume exactly."""

import importlib
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

import snn_rl.envs
from snn_rl.envs import (
    UNBLANKED,
    Flicker,
    NotRepeatable,
    RestoreError,
    draw_cartpole,
    episode_seed,
    make_vector,
    restore,
    snapshot,
)
from snn_rl.envs.vector import SeededEpisodes

POSITION, PIXEL = "PositionOnlyCartPole-v1", "PixelCartPole-v1"


def steps(vector: gym.vector.VectorEnv, actions: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    return [vector.step(action)[:4] for action in actions]


def same(first: list[tuple[np.ndarray, ...]], second: list[tuple[np.ndarray, ...]]) -> bool:
    return all(
        np.array_equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def random_actions(count: int, num_envs: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2, size=(count, num_envs))


@pytest.mark.parametrize("env_id", [POSITION, PIXEL])
@pytest.mark.filterwarnings("ignore")
def test_follows_the_gymnasium_api(env_id: str) -> None:
    check_env(gym.make(env_id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("env_id", [POSITION, PIXEL])
def test_same_trajectory_as_cartpole(env_id: str) -> None:
    hidden, full = gym.make(env_id), gym.make("CartPole-v1")
    for seed in range(5):
        _, info = hidden.reset(seed=seed)
        state, _ = full.reset(seed=seed)
        done = False
        while not done:
            np.testing.assert_array_equal(info["full_state"], state)
            assert info["full_state"].dtype == np.float32
            action = int(state[2] + 0.3 * state[3] > 0) if seed else 0
            observation, *outcome, info = hidden.step(action)
            state, *expected, _ = full.step(action)
            assert outcome == expected
            assert hidden.observation_space.contains(observation)
            done = outcome[1] or outcome[2]


def test_position_only_hides_velocities_and_lasts_500_steps() -> None:
    env = gym.make(POSITION)
    observation, info = env.reset(seed=3)
    assert observation.dtype == np.float32
    truncated, length = False, 0
    while not truncated:
        np.testing.assert_array_equal(observation, info["full_state"][[0, 2]])
        x, v, theta, omega = info["full_state"]
        push = int(0.1 * x + 0.2 * v + theta + 0.3 * omega > 0)
        observation, _, terminated, truncated, info = env.step(push)
        assert not terminated
        length += 1
    assert length == 500


def test_pixels_depend_on_position_and_angle_alone() -> None:
    env = gym.make(PIXEL).unwrapped
    env.reset(seed=0)
    frames = []
    for velocity, omega in [(0.0, 0.0), (2.0, -1.0)]:
        # One step from these states moves cart and pole to the same place at another speed.
        env.state = np.array([0.3 - 0.02 * velocity, velocity, 0.05 - 0.02 * omega, omega])
        frame, *_, info = env.step(1)
        np.testing.assert_allclose(info["full_state"][[0, 2]], [0.3, 0.05], atol=1e-7)
        frames.append(frame)
    np.testing.assert_array_equal(*frames)
    np.testing.assert_array_equal(draw_cartpole(0.3, 0.05), draw_cartpole(0.3, 0.05))


def centre(frame: np.ndarray) -> float:
    weights = frame.astype(np.float64)
    return float((weights * np.arange(frame.shape[1])).sum() / weights.sum())


def test_pixels_follow_the_smallest_motions() -> None:
    by_position = [centre(draw_cartpole(x, 0.03)) for x in np.arange(-1.5, 1.5, 0.004)]
    by_angle = [centre(draw_cartpole(0.1, theta)) for theta in np.arange(-0.2, 0.2, 0.002)]
    np.testing.assert_allclose(np.diff(by_position), 0.004 * 84 / 4.8, atol=0.03)
    assert min(np.diff(by_position)) > 0.04
    assert min(np.diff(by_angle)) > 0.01


def test_pixels_contrast_and_tolerate_places_outside_the_frame() -> None:
    frame = draw_cartpole(0.0, 0.0)
    assert frame.shape == (84, 84)
    assert frame.dtype == np.uint8
    assert {0, 110, 255} <= set(np.unique(frame))
    np.testing.assert_allclose(frame.astype(int), frame[:, ::-1].astype(int), atol=16)
    assert not draw_cartpole(50.0, 0.3).any()


@pytest.mark.parametrize("env_id", [POSITION, PIXEL])
def test_renders_what_cartpole_does(env_id: str) -> None:
    pytest.importorskip("pygame")
    pictures: list[Any] = []
    for name in (env_id, "CartPole-v1"):
        env = gym.make(name, render_mode="rgb_array")
        env.reset(seed=0)
        for action in (0, 1, 1):
            env.step(action)
        pictures.append(env.render())
        env.close()
    assert len(np.unique(pictures[0])) > 2  # cart, pole and track
    assert np.array_equal(*pictures)


def test_importing_again_registers_nothing_twice() -> None:
    importlib.reload(snn_rl.envs)
    assert gym.spec(POSITION).max_episode_steps == 500
    assert gym.spec(PIXEL).max_episode_steps == 500


def test_every_episode_has_its_own_seed() -> None:
    vector = make_vector(POSITION, 3, seed=11)
    first = [vector.reset()[0].copy() for _ in range(4)]
    starts = np.concatenate(first)
    assert len(np.unique(starts, axis=0)) == 12
    env = gym.make(POSITION)
    expected, _ = env.reset(seed=episode_seed(11, 2, 3))
    np.testing.assert_array_equal(first[3][2], expected)


def test_two_runs_of_a_vector_are_equal_and_copies() -> None:
    actions = random_actions(300, 4)
    runs = []
    for _ in range(2):
        vector = make_vector(POSITION, 4, seed=5, flicker=0.3)
        start, _ = vector.reset()
        kept = start.copy()
        runs.append(steps(vector, actions))
        np.testing.assert_array_equal(start, kept)
    assert same(*runs)


def test_explicit_seeds_are_used_as_they_are() -> None:
    vector = make_vector("CartPole-v1", 2, seed=0)
    observations, _ = vector.reset(seed=[123, 456])
    for seed, observation in zip([123, 456], observations, strict=True):
        expected, _ = gym.make("CartPole-v1").reset(seed=seed)
        np.testing.assert_array_equal(observation, expected)
    actions = random_actions(100, 2)
    first = steps(vector, actions)
    vector.reset(seed=[123, 456])
    assert same(first, steps(vector, actions))


def test_the_step_after_an_end_is_the_next_start() -> None:
    vector = make_vector("CartPole-v1", 1, seed=0)
    vector.reset()
    done = False
    while not done:
        _, _, terminated, _, _ = vector.step(np.array([0]))
        done = bool(terminated[0])
    observation, reward, terminated, _, _ = vector.step(np.array([0]))
    expected, _ = gym.make("CartPole-v1").reset(seed=episode_seed(0, 0, 1))
    np.testing.assert_array_equal(observation[0], expected)
    assert reward[0] == 0.0
    assert not terminated[0]


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("flicker", [0.0, 0.4])
def test_restored_run_equals_the_uninterrupted_one(
    explicit: bool, at_end: bool, flicker: float
) -> None:
    actions = random_actions(2100, 2)
    vector = make_vector(POSITION, 2, seed=1, flicker=flicker)
    vector.reset(seed=[7, 8] if explicit else None, options={"low": -0.02, "high": 0.02})
    for count, action in enumerate(actions, start=1):
        observation, _, terminated, _, infos = vector.step(action)
        # The first end is in episode 0, which explicit seeds and options concern.
        if terminated.any() if at_end else count == 6:
            break
    text = json.dumps(snapshot(vector))
    rest = actions[count:][:2000]
    uninterrupted = steps(vector, rest)

    other = make_vector(POSITION, 2, seed=99, flicker=flicker)
    restored, restored_infos = restore(other, json.loads(text))
    np.testing.assert_array_equal(restored, observation)
    np.testing.assert_array_equal(restored_infos["full_state"], infos["full_state"])
    assert len(rest) == 2000
    assert same(uninterrupted, steps(other, rest))
    assert snapshot(other) == snapshot(vector)


def test_resuming_one_environment() -> None:
    env = make_vector(POSITION, 2, seed=1).envs[1]  # type: ignore[attr-defined]
    env.reset()
    for action in [0, 1, 1]:
        observation, *_ = env.step(action)
    env.reset()
    env.resume(0, [0, 1, 1])
    np.testing.assert_array_equal(env.observation, observation)
    assert (env.episode, env.actions) == (0, [0, 1, 1])


class Sticking(gym.Env[Any, Any]):
    """Shows what was done, and in the first step of an episode what was done before it began: as
    MinAtar's sticky actions do, it does not follow from seed and actions."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    last = 0

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.first = True
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        shown, self.first, self.last = self.last if self.first else action, False, action
        return np.full(1, shown, np.float32), 0.0, False, False, {}


def test_another_course_is_noticed_though_it_ends_alike() -> None:
    def make() -> SeededEpisodes:
        return SeededEpisodes(Sticking(), 1, 0)

    vector = SyncVectorEnv([make], copy=True)
    env: Any = vector.envs[0]
    env.reset()
    env.step(1)
    env.reset()
    for action in (0, 0, 1):  # it shows 1, 0, 1
        env.step(action)
    with pytest.raises(NotRepeatable, match="another observation"):
        restore(SyncVectorEnv([make], copy=True), snapshot(vector))


def test_what_cannot_be_restored_is_refused() -> None:
    vector = make_vector(POSITION, 2, seed=1)
    with pytest.raises(RestoreError, match="never reset"):
        snapshot(vector)
    vector.reset()
    records = snapshot(vector)
    with pytest.raises(RestoreError, match="2 environments, not 3"):
        restore(make_vector(POSITION, 3, seed=1), records)
    with pytest.raises(RestoreError, match="another observation"):
        restore(make_vector("CartPole-v1", 2, seed=1), records)
    with pytest.raises(RestoreError, match="ended after"):
        restore(vector, [record | {"actions": [0] * 50} for record in records])
    with pytest.raises(TypeError, match="make_vector"):
        snapshot(gym.make_vec("CartPole-v1", 2))


def test_flicker_has_its_frequency_and_spares_the_full_state() -> None:
    vector = make_vector(POSITION, 8, seed=2, flicker=0.25)
    observations, infos = vector.reset()
    blanked = []
    for action in random_actions(500, 8):
        blanked.append((observations == 0).all(axis=1))
        shown = ~blanked[-1]
        np.testing.assert_array_equal(observations[shown], infos["full_state"][shown][:, [0, 2]])
        assert infos["full_state"].any(axis=1).all()
        np.testing.assert_array_equal(infos[UNBLANKED], infos["full_state"][:, [0, 2]])
        observations, _, _, _, infos = vector.step(action)
    assert abs(np.mean(blanked) - 0.25) < 0.03


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_flicker_is_a_probability(probability: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Flicker(gym.make(POSITION), probability)


@pytest.mark.parametrize(("num_envs", "seed"), [(0, 0), (1, -1)])
def test_vector_arguments_are_checked(num_envs: int, seed: int) -> None:
    with pytest.raises(ValueError, match="num_envs >= 1 and seed >= 0"):
        make_vector(POSITION, num_envs, seed=seed)
