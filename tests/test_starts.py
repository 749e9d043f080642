"""All starts of Pong: what the table promises, asked of ALE itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from snn_rl.agents.agent import Agent
from snn_rl.agents.conditions import Conditions
from snn_rl.agents.distinct import GameEvents, count_distinct
from snn_rl.agents.evaluation import evaluate, evaluate_agent
from snn_rl.agents.loading import load_agent
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import mlp
from snn_rl.agents.seeds import (
    EVALUATION_SEEDS,
    SEEDS_PER_RUN,
    evaluation_seeds,
    validation_seeds,
)
from snn_rl.conversion.tracing import trace
from snn_rl.envs import (
    UnsupportedEnvironment,
    all_starts,
    check_spaces,
    count_no_ops,
    has_table,
    make_vector,
)
from snn_rl.envs.observation import pipeline_for
from snn_rl.envs.starts import STARTS

PONG = "PongNoFrameskip-v4"


def test_there_is_one_seed_for_each_number_of_no_ops() -> None:
    np.testing.assert_array_equal(count_no_ops(PONG, STARTS), range(30))
    assert all(seed - EVALUATION_SEEDS in range(SEEDS_PER_RUN) for seed in STARTS)


def test_nothing_but_the_no_ops_tells_two_games_apart() -> None:
    """Other seeds with the same number of no-ops show the same frames under the same actions."""
    others = list(range(300_000_000, 300_000_064))
    counts = count_no_ops(PONG, others).tolist()
    no_ops = sorted(set(counts))
    assert len(no_ops) > 20
    chosen = [others[counts.index(n)] for n in no_ops]
    one, other = (make_vector(PONG, len(no_ops), seed=seed) for seed in (0, 1))
    generator, table = np.random.default_rng(0), [STARTS[n] for n in no_ops]
    frames, same = one.reset(seed=table)[0], other.reset(seed=chosen)[0]  # type: ignore[arg-type]
    for _ in range(300):
        np.testing.assert_array_equal(frames, same)
        actions = generator.integers(6, size=len(no_ops))
        frames, same = one.step(actions)[0], other.step(actions)[0]
    one.close()
    other.close()
    # And the starts are not all one game: the ball is served at other moments.
    assert len({frame.tobytes() for frame in frames}) > 10


@pytest.mark.parametrize(
    ("env_id", "sticky", "reason"),
    [
        (PONG, 0.25, "its sticky actions make every game another one"),
        ("ALE/Pong-v5", None, "its sticky actions make every game another one"),
        ("BreakoutNoFrameskip-v4", None, "its starts have no table"),
        ("CartPole-v1", None, "its starts have no table"),
    ],
)
def test_where_there_is_no_table_all_starts_are_refused(
    env_id: str, sticky: float | None, reason: str
) -> None:
    assert not has_table(env_id, sticky)
    with pytest.raises(UnsupportedEnvironment, match=f"{env_id} cannot .* {reason}: name a number"):
        all_starts(env_id, sticky)
    assert all_starts("ALE/Pong-v5", 0.0) == STARTS


@pytest.fixture(scope="module")
def agent() -> Agent:
    loaded = load_agent(f"zoo:{PONG}/T1")
    loaded.card["provenance"]["validation"] = {"seed": 0, "episodes": 2, "confirm": 1}
    return loaded


def test_a_row_of_all_starts_is_exact_and_says_which_of_them_chose_the_weights(
    agent: Agent,
) -> None:
    row = evaluate_agent(agent, "T1", trials="all", max_frames=20)
    assert row["trials"] == len(row["lengths"]) == 30
    assert row["exact"] is True
    assert row["standard_error"] == 0
    assert row["failures"] is None
    chosen = [*validation_seeds(0, 2), *validation_seeds(0, 1, confirm=True)]
    assert row["validation_starts"] == len(set(count_no_ops(PONG, chosen).tolist()))
    sample = evaluate_agent(agent, "T1", trials=3, max_frames=20)
    assert sample["exact"] is False
    no_ops = set(count_no_ops(PONG, chosen).tolist())
    played = count_no_ops(PONG, evaluation_seeds(0, 3)).tolist()
    assert sample["validation_starts"] == sum(n in no_ops for n in played)


def test_no_start_is_shared_where_games_differ_anyway(agent: Agent) -> None:
    sticky = evaluate_agent(agent, "", trials=2, conditions=Conditions(sticky=0.25), max_frames=5)
    assert sticky["validation_starts"] == 0
    with pytest.raises(UnsupportedEnvironment, match="sticky actions make every game another"):
        evaluate_agent(agent, "", trials="all", conditions=Conditions(sticky=0.25))
    with pytest.raises(UnsupportedEnvironment, match="blank frames make every game another"):
        evaluate_agent(agent, "", trials="all", conditions=Conditions(flicker=0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trials", "none"), "--trials 'none' must be a whole number from 1, or all"),
        (("--trials", "0"), "--trials '0' must be a whole number from 1, or all"),
        (("--trials", "all", "--seed", "2"), "leave out --seed"),
        (("--trials", "all", "--agent", "zoo:CartPole-v1/T1"), "CartPole-v1 cannot be played from"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    call: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = call("evaluate", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_the_command_plays_all_starts(call: Callable[..., Any]) -> None:
    code, out, _ = call(
        *("evaluate", "--agent", f"zoo:{PONG}/T1", "--trials", "all", "--max-frames", "5", "--json")
    )
    assert code == 0
    (row,) = json.loads(out)
    assert row["trials"] == 30
    assert row["exact"] is True


class Late(gym.Env[NDArray[np.float32], np.int64]):
    """Waits for seed // 2 steps, then pays 1 or 2 three times."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        self.left, self.pays = 3 + seed // 2 % 4, 1.0 + seed % 2
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> Any:
        self.left -= 1
        reward = self.pays if self.left < 3 else 0.0
        return np.zeros(1, np.float32), reward, self.left == 0, False, {}


def test_games_that_begin_later_and_then_agree_are_one() -> None:
    gym.register("Late-v0", entry_point=Late)
    try:
        policy = Policy(trace(mlp(1, [2], 2), (1,), pixels=False))
        pipeline = pipeline_for(check_spaces("Late-v0"))
        played = evaluate(policy, "Late-v0", pipeline, range(8))
        silent = evaluate(policy, "Late-v0", pipeline, range(8), max_frames=1)
    finally:
        del gym.registry["Late-v0"]
    assert sorted(played.lengths) == [3, 3, 4, 4, 5, 5, 6, 6]
    assert played.distinct_trials == 2
    assert silent.distinct_trials == 3  # paid 1, paid 2, not paid yet


def played(points_only: bool, actions: list[int], rewards: list[float]) -> GameEvents:
    game = GameEvents(points_only)
    for action, reward in zip(actions, rewards, strict=True):
        game.add(action, reward)
    return game


def test_atari_games_differ_in_when_points_were_won_and_lost() -> None:
    def count(points_only: bool, *games: tuple[list[int], list[float]]) -> int:
        return count_distinct(played(points_only, *game) for game in games)

    one = ([3, 1, 2, 0, 1], [0, 1, 0, 0, -1.0])
    waited = ([0, 0, 3, 1, 2, 0, 1], [0, 0, 0, 1, 0, 0, -1.0])
    idly_other = ([3, 1, 5, 0, 1], [0, 1, 0, 0, -1.0])
    later = ([3, 1, 2, 0, 0, 1], [0, 1, 0, 0, 0, -1.0])
    won = ([3, 1, 2, 0, 1], [0, 1, 0, 0, 1.0])
    assert count(True, one, waited, idly_other) == 1
    assert count(True, one, later, won) == 3
    assert count(False, one, waited) == 1
    assert count(False, one, idly_other) == 2
    assert count(True, ([1], [0.0]), ([2], [0.0]), ([1], [0.0])) == 2  # no points: actions count
    assert count(False, ([0, 1], [1.0, 1.0]), ([0, 0], [1.0, 1.0])) == 2  # every step pays


def test_carried_membranes_make_no_other_game_of_pong() -> None:
    agent = load_agent("zoo:PongNoFrameskip-v4/T1")
    # The same game, seen one decision earlier; only actions without effect differ.
    seeds = [STARTS[0], STARTS[4]]
    result = evaluate(agent.policy, agent.env_id, agent.pipeline, seeds, max_frames=400)
    assert result.rewards[0] == result.rewards[1] > 0
    assert result.distinct_trials == 1


def test_failures_and_the_standard_error_are_counted() -> None:
    row = evaluate_agent(load_agent("zoo:PositionOnlyCartPole-v1/ann"), "", trials=5)
    assert row["failures"] == sum(length < 500 for length in row["lengths"])
    assert row["standard_error"] == pytest.approx(np.std(row["rewards"], ddof=1) / np.sqrt(5))
    assert row["validation_starts"] is None  # its card does not say
    one = evaluate_agent(load_agent("zoo:CartPole-v1/T1"), "", trials=1)
    assert (one["failures"], one["standard_error"]) == (0, None)
