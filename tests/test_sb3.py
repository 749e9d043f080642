"""The agent under Stable-Baselines3's `evaluate_policy`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from made_agents import ENV, make_agent, observations, values

from snn_rl.agents.agent import Agent


def test_predict_leaves_the_agents_own_memory_alone() -> None:
    agent = make_agent()
    sequence, others = observations(10), observations(10, 3, seed=5)
    expected = values(make_agent(), sequence)
    state, found, predicted = None, [], []
    for own, other in zip(sequence, others, strict=True):
        found.append(agent.q_values(own))
        action, state = agent.predict(other, state, deterministic=False)
        predicted.append(action)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(predicted, values(make_agent(), others).argmax(2))
    with pytest.raises(ValueError, match="takes"):
        agent.predict(np.zeros(5), state)
    np.testing.assert_array_equal(
        agent.q_values(sequence[0]), values(make_agent(), np.append(sequence, sequence[:1], 0))[-1]
    )


def play(agent: Agent, env: gym.Env[Any, Any], observation: Any) -> float:
    """Return of the episode that began with `observation`."""
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
        total += float(reward)
        over = terminated or truncated
    return total


def games_by_hand(agent: Agent, seeds: list[int], targets: list[int]) -> list[float]:
    """Returns of the first episodes of one environment per seed, each with an agent of its own."""
    result = []
    for seed, target in zip(seeds, targets, strict=True):
        env = gym.make(ENV)
        observation, _ = env.reset(seed=seed)
        for _ in range(target):
            result.append(play(agent.with_options(), env, observation))
            observation, _ = env.reset()
    return result


def test_stable_baselines_evaluates_it_like_by_hand() -> None:
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    agent = make_agent(seed=29)
    vector = DummyVecEnv([lambda: Monitor(gym.make(ENV)) for _ in range(3)])
    vector.seed(5)
    rewards: Any
    rewards, lengths = evaluate_policy(
        agent, vector, n_eval_episodes=14, return_episode_rewards=True
    )
    assert rewards == lengths
    by_hand = games_by_hand(agent, [5, 6, 7], [4, 5, 5])
    assert len(set(by_hand)) > 5, "all games are alike"
    assert sorted(rewards) == sorted(by_hand)
    vector.seed(5)
    mean, std = evaluate_policy(agent, vector, n_eval_episodes=14)
    assert mean == pytest.approx(np.mean(rewards))
    assert std == pytest.approx(np.std(rewards))
    assert agent.state is None
    # Memory that outlives an episode would play other games.
    vector.seed(5)
    worse: Any
    worse, _ = evaluate_policy(
        _NeverStarts(agent), vector, n_eval_episodes=14, return_episode_rewards=True
    )
    assert sorted(worse) != sorted(rewards)


class _NeverStarts:
    """Ignores where episodes start."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: Any = 1
    ) -> Any:
        return self.agent.predict(observation, state)


def test_stable_baselines_evaluates_it_on_a_single_environment() -> None:
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    agent = make_agent(seed=29)
    env = Monitor(gym.make(ENV))
    env.reset(seed=5)
    rewards, _ = evaluate_policy(agent, env, n_eval_episodes=4, return_episode_rewards=True)
    game = gym.make(ENV)
    game.reset(seed=5)
    expected = [play(agent.with_options(), game, game.reset()[0]) for _ in range(4)]
    assert rewards == expected
