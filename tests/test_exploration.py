"""Who chooses the actions in roll-outs: chance, the teacher, the pupil."""

from __future__ import annotations

import numpy as np
import pytest
from playing import POSITION, ann, constant, play, spiking

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.dqn.rollout import Exploration, exploration
from snn_rl.agents.policy import Policy


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
