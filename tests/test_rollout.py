"""Roll-outs: memory, returns, dummy steps, teachers and exploration, per environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.dqn.replay import Segment, SegmentReplay
from snn_rl.agents.dqn.rollout import Exploration, Rollout, exploration
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import mlp
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.grid import snap
from snn_rl.core.network import Network, State
from snn_rl.core.state import leaves
from snn_rl.envs import check_spaces, episode_seed, make_vector
from snn_rl.envs.observation import ObservationPipeline, pipeline_for
from snn_rl.errors import SnnRlError

POSITION = "PositionOnlyCartPole-v1"
GREEDY = Exploration(0.0)


class Ledger(gym.Env[NDArray[np.float32], np.int64]):
    """Shows (number of the seed, step). An episode's length and end follow from its seed."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, broken: float = 0.0) -> None:
        self.broken = broken

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        self.number, self.step_number = seed % 1000, 0
        return self._observation(), {}

    def step(self, action: np.int64) -> Any:
        self.step_number += 1
        end = self.step_number >= 2 + self.number % 5
        reward = 0.5 * self.step_number - 2 * int(action) + self.broken
        terminates = self.number % 2 == 0
        return self._observation(), reward, end and terminates, end and not terminates, {}

    def _observation(self) -> NDArray[np.float32]:
        return np.array([self.number, self.step_number], np.float32)


for name, broken in (("Ledger", 0.0), ("LedgerNaN", np.nan), ("LedgerInf", np.inf)):
    gym.register(f"{name}-v0", entry_point=f"{__name__}:Ledger", kwargs={"broken": broken})

PLAIN = ObservationPipeline("vector", (2,))


def ann(features: int = 2, actions: int = 2, *, stack: int = 1, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = trace(mlp(features * stack, [16], actions), (features,), pixels=False, stack=stack)
    snap(network, 1)
    return network


def spiking(timesteps: int, seed: int = 0) -> Network:
    frames = torch.randn(20, 8, 2, generator=torch.Generator().manual_seed(seed))
    network = convert(
        ann(seed=seed),
        Calibration(frames),
        timesteps=timesteps,
        carry_membrane=True,
        options=NeuronOptions(leak="neuron", leak_low=0.5, leak_high=0.99),
    )
    snap(network, timesteps)
    return network


def constant(action: int, actions: int = 3) -> Policy:
    """Always prefers one action."""
    layer = nn.Linear(2, actions)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.eye(actions)[action])
    return Policy(trace(nn.Sequential(layer), (2,), pixels=False))


def play(
    env_id: str,
    policy: Policy,
    frames: int,
    odds: Exploration = GREEDY,
    *,
    envs: int = 5,
    teacher: Policy | None = None,
    seed: int = 3,
    pipeline: ObservationPipeline = PLAIN,
    clip_rewards: bool = False,
    flicker: float = 0.0,
) -> tuple[Rollout, Segment, list[tuple[float, int]]]:
    """Roll out; everything that was stored, and the episodes that ended."""
    vector = make_vector(env_id, envs, seed=seed, flicker=flicker)
    replay = SegmentReplay(
        envs,
        frames,
        policy.network.input_shape,
        pixels=False,
        teacher_actions=int(vector.single_action_space.n) if teacher else 0,  # type: ignore[attr-defined]
    )
    rollout = Rollout(
        vector,
        env_id,
        pipeline,
        policy,
        teacher,
        np.random.default_rng(seed),
        clip_rewards=clip_rewards,
    )
    finished = rollout.collect(replay, frames, odds)
    vector.close()
    return rollout, replay.newest(frames, None), finished


def episodes(segment: Segment, env: int) -> list[slice]:
    """Frames of each episode of one environment, final frames included."""
    begins = np.flatnonzero(segment.start[:, env])
    assert begins[0] == 0
    return [slice(*pair) for pair in zip(begins, [*begins[1:], len(segment.start)], strict=True)]


def alone(policy: Policy, frames: NDArray[Any]) -> tuple[NDArray[Any], State]:
    """Q-values of an episode that is played by itself, and the state after it."""
    state, values = policy.network.initial_state(1), []
    with torch.no_grad():
        for frame in frames:
            q, state = policy.network(
                torch.from_numpy(frame)[None, None],
                state,
                timesteps=policy.timesteps,
                carry_membrane=policy.carry_membrane,
            )
            values.append(q[0, 0].numpy())
    return np.array(values), state


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_membranes_are_those_of_each_episode_played_alone(timesteps: int, epsilon: float) -> None:
    policy = Policy(spiking(timesteps), timesteps)
    pipeline = pipeline_for(check_spaces(POSITION))
    rollout, segment, finished = play(POSITION, policy, 70, Exploration(epsilon), pipeline=pipeline)
    assert len(finished) > 5
    for env in range(5):
        parts = episodes(segment, env)
        assert len(parts) > 1
        for part in parts:
            q, state = alone(policy, segment.frames[part, env])
            if epsilon == 0:
                np.testing.assert_array_equal(segment.action[part, env], q.argmax(1))
        for mine, theirs in zip(leaves(rollout.state), leaves(state), strict=True):
            assert torch.equal(mine[env], theirs[0])


def test_play_depends_on_the_membranes() -> None:
    """Without memory the same play is impossible: the test above can fail."""
    policy = Policy(spiking(1), 1)
    _, segment, _ = play(
        POSITION, policy, 70, Exploration(0.5), pipeline=pipeline_for(check_spaces(POSITION))
    )
    forgetful = Policy(policy.network, 1, carry_membrane=False)
    part = episodes(segment, 0)[0]
    frames = segment.frames[part, 0]
    assert not np.array_equal(alone(policy, frames)[0], alone(forgetful, frames)[0])


def test_frames_are_what_the_environment_shows_through_the_pipeline() -> None:
    pipeline = pipeline_for(check_spaces(POSITION))
    _, segment, _ = play(POSITION, Policy(ann()), 40, Exploration(1.0), pipeline=pipeline)
    for env in range(5):
        for number, part in enumerate(episodes(segment, env)):
            game = gym.make(POSITION)
            shown = [game.reset(seed=episode_seed(3, env, number))[0]]
            for action in segment.action[part, env][: len(range(*part.indices(40))) - 1]:
                shown.append(game.step(action)[0])
            np.testing.assert_array_equal(
                segment.frames[part, env], pipeline.encode(np.array(shown))
            )


def test_returns_lengths_and_dummy_steps() -> None:
    _, segment, finished = play("Ledger-v0", constant(0), 60, Exploration(1.0))
    expected = []
    for env in range(5):
        for part in episodes(segment, env):
            frames = segment.frames[part, env]
            number, steps = int(frames[0, 0]), len(frames)
            np.testing.assert_array_equal(frames[:, 1], range(steps))
            length = 2 + number % 5
            ended = np.arange(steps) == length - 1
            terminates = number % 2 == 0
            np.testing.assert_array_equal(segment.terminated[part, env], ended & terminates)
            np.testing.assert_array_equal(segment.truncated[part, env], ended & (not terminates))
            np.testing.assert_array_equal(segment.valid[part, env], np.arange(steps) < length)
            actions, rewards = segment.action[part, env][:length], segment.reward[part, env]
            wanted = 0.5 * (1 + np.arange(len(actions))) - 2 * actions
            np.testing.assert_allclose(rewards[:length], wanted)
            if steps > length:
                assert steps == length + 1
                assert rewards[length] == 0
            if steps >= length:
                end = part.start + length - 1
                expected.append((end, env, float(wanted.sum()), length))
    assert len(expected) > 30
    # In the order in which they ended.
    found = [pytest.approx(value) for _, _, value, _ in sorted(expected)]
    assert [value for value, _ in finished] == found
    assert [length for _, length in finished] == [length for *_, length in sorted(expected)]


def test_returns_go_on_from_call_to_call() -> None:
    vector = make_vector("Ledger-v0", 5, seed=3)
    replay = SegmentReplay(5, 60, (2,), pixels=False)
    rollout = Rollout(vector, "Ledger-v0", PLAIN, constant(0), None, np.random.default_rng(3))
    pieces = []
    for _ in range(20):
        pieces += rollout.collect(replay, 3, Exploration(1.0))
    assert pieces == play("Ledger-v0", constant(0), 60, Exploration(1.0))[2]


def test_clipped_rewards_are_stored_but_returns_stay_whole() -> None:
    _, plain, returns = play("Ledger-v0", constant(0), 40, Exploration(0.7))
    _, clipped, same = play("Ledger-v0", constant(0), 40, Exploration(0.7), clip_rewards=True)
    assert returns == same
    assert np.abs(plain.reward).max() > 1
    np.testing.assert_array_equal(clipped.reward, plain.reward.clip(-1, 1))


@pytest.mark.parametrize("kind", ["spiking", "stack"])
def test_labels_come_with_the_teachers_own_memory(kind: str) -> None:
    teacher = Policy(spiking(3, seed=8), 3) if kind == "spiking" else Policy(ann(stack=4))
    pupil = Policy(spiking(1), 1)
    rollout, segment, _ = play(POSITION, pupil, 50, Exploration(0.5), teacher=teacher)
    assert segment.teacher_q is not None
    for env in range(5):
        for part in episodes(segment, env):
            q, state = alone(teacher, segment.frames[part, env])
            np.testing.assert_allclose(segment.teacher_q[part, env], q, atol=1e-6)
        for mine, theirs in zip(leaves(rollout.teacher_state), leaves(state), strict=True):
            assert torch.equal(mine[env], theirs[0])


def test_teachers_see_frames_that_their_pupils_do_not() -> None:
    pupil, teacher = constant(1, 2), Policy(ann(stack=4))
    _, plain, _ = play(POSITION, pupil, 40, teacher=teacher)
    _, blanked, _ = play(POSITION, pupil, 40, teacher=teacher, flicker=0.5)
    assert (blanked.frames == 0).all(2).mean() > 0.3
    assert not (plain.frames == 0).all(2).any()
    assert plain.teacher_q is not None
    assert blanked.teacher_q is not None
    np.testing.assert_array_equal(plain.teacher_q, blanked.teacher_q)


def test_a_teacher_changes_nothing_in_the_pupils_play() -> None:
    pupil = Policy(spiking(1), 1)
    _, without, _ = play(POSITION, pupil, 40, Exploration(0.3))
    _, watched, _ = play(POSITION, pupil, 40, Exploration(0.3), teacher=Policy(ann(seed=5)))
    np.testing.assert_array_equal(without.frames, watched.frames)
    np.testing.assert_array_equal(without.action, watched.action)


@pytest.mark.parametrize(
    ("epsilon", "share"), [(0.0, 0.0), (1.0, 0.5), (0.3, 0.5), (0.0, 1.0), (0.0, 0.25), (0.6, 0.0)]
)
def test_odds_of_random_and_of_the_teachers_actions(epsilon: float, share: float) -> None:
    _, segment, _ = play(
        "Ledger-v0", constant(0), 200, Exploration(epsilon, share), envs=16, teacher=constant(2)
    )
    counts = np.bincount(segment.action.ravel(), minlength=3) / segment.action.size
    greedy = 1 - epsilon
    expected = np.array([greedy * (1 - share), 0, greedy * share]) + epsilon / 3
    np.testing.assert_allclose(counts, expected, atol=0.035)
    assert (counts[expected == 0] == 0).all()


def test_environments_explore_independently() -> None:
    for epsilon, chance in ((1.0, 1 / 3), (0.5, 1 / 2)):
        _, segment, _ = play("Ledger-v0", constant(0), 300, Exploration(epsilon), envs=4)
        for i in range(4):
            for j in range(i):
                same = (segment.action[:, i] == segment.action[:, j]).mean()
                assert same == pytest.approx(chance, abs=0.1)


def test_epsilon_spread_lets_each_environment_explore_in_its_own_way() -> None:
    """Environment i of N: epsilon ** (1 + spread * i / (N - 1))."""
    odds = exploration(LearnerConfig(epsilon=[0.4, 0.4], epsilon_spread=7), 0.5)
    _, segment, _ = play("Ledger-v0", constant(0), 1000, odds, envs=4)
    explored = (segment.action != 0).mean(0) * 3 / 2  # a third of random actions is the greedy one
    expected = 0.4 ** (1 + 7 * np.arange(4) / 3)
    np.testing.assert_allclose(explored, expected, atol=0.06)
    assert (segment.action[:, 3] != 0).sum() <= 8  # 0.4 ** 8 = 0.0007
    assert explored[0] > 2 * explored[1] > 0


def test_without_a_teacher_its_share_is_the_pupils() -> None:
    _, segment, _ = play("Ledger-v0", constant(1), 30, Exploration(0.0, 1.0))
    assert (segment.action == 1).all()


def test_exploration_falls_as_configured() -> None:
    config = LearnerConfig(epsilon=[0.8, 0.2], explore=0.5, teacher_acts=0.25)
    odds = [exploration(config, progress) for progress in (0, 0.125, 0.25, 0.5, 1)]
    assert [o.epsilon for o in odds] == pytest.approx([0.8, 0.65, 0.5, 0.2, 0.2])
    assert [o.teacher for o in odds] == pytest.approx([1, 0.5, 0, 0, 0])
    assert exploration(LearnerConfig(), 0).teacher == 0


def test_privileged_policies_see_the_full_state() -> None:
    """The same play as in CartPole-v1, whose observation is the full state."""
    policy = Policy(ann(features=4), privileged=True)
    pupil = Policy(ann())
    odds = Exploration(0.4)
    pipeline = ObservationPipeline("vector", (4,))
    _, full, _ = play("CartPole-v1", Policy(policy.network), 50, odds, pipeline=pipeline)
    _, seen, _ = play(POSITION, policy, 50, odds)
    np.testing.assert_array_equal(seen.frames, full.frames)
    np.testing.assert_array_equal(seen.action, full.action)
    # As a teacher it labels frames that the pupil sees only in part.
    _, taught, _ = play(POSITION, pupil, 50, odds, teacher=policy)
    assert taught.frames.shape[2:] == (2,)
    assert taught.teacher_q is not None
    first = episodes(taught, 0)[0]
    game = gym.make("CartPole-v1")
    states = [game.reset(seed=episode_seed(3, 0, 0))[0]]
    for action in taught.action[first, 0][:-1]:
        states.append(game.step(action)[0])
    np.testing.assert_allclose(
        taught.teacher_q[first, 0], alone(policy, np.array(states))[0], atol=1e-6
    )


def test_an_environment_without_full_state_has_no_privileged_policy() -> None:
    policy = Policy(ann(features=4), privileged=True)
    with pytest.raises(SnnRlError, match=r"CartPole-v1 reports no info\['full_state'\]"):
        play("CartPole-v1", policy, 1, pipeline=ObservationPipeline("vector", (4,)))


@pytest.mark.parametrize("env_id", ["LedgerNaN-v0", "LedgerInf-v0"])
def test_rewards_that_are_no_numbers_are_refused(env_id: str) -> None:
    with pytest.raises(ValueError, match=f"{env_id} returned .* a finite number as the reward"):
        play(env_id, constant(0), 3)


def test_the_seed_decides_everything() -> None:
    pupil = Policy(spiking(1), 1)
    runs = [play(POSITION, pupil, 30, Exploration(0.5), seed=seed)[1] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0].frames, runs[1].frames)
    np.testing.assert_array_equal(runs[0].action, runs[1].action)
    assert not np.array_equal(runs[0].action, runs[2].action)


def test_the_network_may_learn_between_calls() -> None:
    """Weights change in place: the next call plays with the new ones."""
    vector = make_vector("Ledger-v0", 2, seed=0)
    policy = constant(0)
    rollout = Rollout(vector, "Ledger-v0", PLAIN, policy, None, np.random.default_rng(0))
    replay = SegmentReplay(2, 5, (2,), pixels=False)
    rollout.collect(replay, 5, GREEDY)
    assert (replay.action == 0).all()
    for parameter in policy.network.parameters():
        if parameter.dim() == 1:
            parameter.data.copy_(torch.tensor([0.0, 0.0, 1.0]))
    rollout.collect(replay, 5, GREEDY)
    assert (replay.action == 2).all()
