"""Training, validation, confirmation and evaluation draw from ranges of seeds that never meet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from short_runs import tiny

from snn_rl.agents.seeds import (
    BLOCKS,
    SEEDS_PER_RUN,
    VALIDATIONS,
    evaluation_seeds,
    validation_seeds,
)
from snn_rl.envs import episode_seed
from snn_rl.errors import SnnRlError


def test_the_ranges_never_meet() -> None:
    """Each range's first and last seeds, at the largest numbers that are taken."""
    ranges = []
    for seed in (0, BLOCKS - 1):
        ranges += [
            validation_seeds(seed, VALIDATIONS),
            validation_seeds(seed, VALIDATIONS, confirm=True),
        ]
    ranges += [evaluation_seeds(seed, SEEDS_PER_RUN) for seed in (0, BLOCKS - 1)]
    ends = [(seeds[0], seeds[-1]) for seeds in ranges]
    assert ends == sorted(ends)
    assert all(a[1] < b[0] for a, b in pairwise(ends))
    assert ends[-1][1] < 2**30 <= min(episode_seed(2**31 - 1, i, 0) for i in range(1000))


def test_published_scores_keep_their_seeds() -> None:
    assert evaluation_seeds(3, 2) == [200_030_000, 200_030_001]
    assert validation_seeds(3, 2) == [100_030_000, 100_030_001]
    assert validation_seeds(3, 2, confirm=True) == [100_035_000, 100_035_001]


@pytest.mark.parametrize(
    ("seeds", "named"),
    [
        (lambda: evaluation_seeds(BLOCKS, 1), "evaluation seed must be from 0 to 9999, not 10000"),
        (lambda: evaluation_seeds(0, 10_001), "trials must be from 0 to 10000, not 10001"),
        (lambda: validation_seeds(-1, 1), "seed must be from 0 to 9999, not -1"),
        (lambda: validation_seeds(0, 5_001), "validation episodes must be from 0 to 5000"),
        (lambda: validation_seeds(0, 5_001, confirm=True), "confirming episodes must be from 0"),
    ],
)
def test_what_lies_outside_is_refused(seeds: Callable[[], list[int]], named: str) -> None:
    with pytest.raises(SnnRlError, match=named):
        seeds()


@pytest.mark.parametrize(
    "changes",
    [{"seed": 10_000}, {"validation": {"episodes": 5_001}}, {"validation": {"confirm": 5_001}}],
)
def test_a_run_is_refused_before_it_trains(changes: dict[str, object]) -> None:
    with pytest.raises(SnnRlError, match="less than"):
        tiny(**changes)


def test_the_command_line_names_the_range(call: Callable[..., tuple[int, str, str]]) -> None:
    agent = ("--agent", "zoo:CartPole-v1/T1")
    for arguments in (
        ("evaluate", *agent, "--seed", "300000"),
        ("evaluate", *agent, "--trials", "10001"),
        ("play", *agent, "--seed", "9999", "--episodes", "2", "--video", "x.gif"),
        ("energy", *agent, "--trials", "10001"),
    ):
        status, _, err = call(*arguments)
        assert (status, "must be from 0 to" in err) == (2, True), err
    status, _, err = call("train", "--env", "CartPole-v1", "--seed", "10000")
    assert (status, "less than 10000" in err) == (2, True)
