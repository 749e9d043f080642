"""Roll-outs: memory, returns, dummy steps, teachers and exploration, per environment."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from playing import GREEDY, PLAIN, POSITION, alone, ann, constant, episodes, play, spiking

from snn_rl.agents.dqn.replay import SegmentReplay
from snn_rl.agents.dqn.rollout import Exploration, Rollout
from snn_rl.agents.policy import Policy
from snn_rl.core.state import leaves
from snn_rl.envs import check_spaces, episode_seed, make_vector
from snn_rl.envs.observation import ObservationPipeline, pipeline_for
from snn_rl.errors import SnnRlError


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
