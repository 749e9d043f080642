"""Roll-outs that are played while the network learns."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import Watcher, short, weights

from snn_rl.agents.dqn.overlap import OverlappedPlay
from snn_rl.agents.dqn.replay import SegmentReplay
from snn_rl.agents.dqn.rollout import Exploration, Rollout
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import mlp
from snn_rl.agents.run import Run
from snn_rl.conversion.tracing import trace
from snn_rl.envs import make_vector
from snn_rl.envs.observation import ObservationPipeline

ENVS, FRAMES = 3, 6
PIPELINE = ObservationPipeline("vector", (4,))


def policy() -> Policy:
    torch.manual_seed(0)
    return Policy(trace(mlp(4, [8], 2), (4,), pixels=False))


def rollout_of(player: Policy) -> Rollout:
    vector = make_vector("CartPole-v1", ENVS, seed=0)
    generator = np.random.default_rng(0)
    return Rollout(vector, "CartPole-v1", PIPELINE, player, None, generator)


def empty() -> SegmentReplay:
    return SegmentReplay(ENVS, 2 * FRAMES, (4,), pixels=False)


def test_it_plays_with_the_weights_of_its_start() -> None:
    odds, learner = Exploration(0.3), policy()
    expected, plain = empty(), rollout_of(policy())
    plain.collect(expected, FRAMES, odds)
    replay, overlapped = empty(), OverlappedPlay(learner)
    rollout = rollout_of(overlapped.policy)
    overlapped.start(rollout, FRAMES, odds)
    learned(learner)
    overlapped.finish(replay)
    for name in ("frames", "action", "reward", "start"):
        np.testing.assert_array_equal(getattr(replay, name), getattr(expected, name))
    # The next roll-out is the learned network's.
    learned(plain.policy)
    plain.collect(expected, FRAMES, odds)
    overlapped.start(rollout, FRAMES, odds)
    overlapped.finish(replay)
    overlapped.close()
    np.testing.assert_array_equal(replay.action, expected.action)


def learned(of: Policy) -> None:
    """Another network, in place: the one that liked one action likes the other."""
    with torch.no_grad():
        for parameter in of.network.parameters():
            parameter.neg_()


def test_the_learner_does_not_wait_for_play_to_end() -> None:
    learner = policy()
    overlapped = OverlappedPlay(learner)
    rollout, replay, let = rollout_of(overlapped.policy), empty(), threading.Event()
    step = rollout.vector.step

    def slow(actions: Any) -> Any:
        assert let.wait(60)
        return step(actions)

    rollout.vector.step = slow  # type: ignore[method-assign]
    overlapped.start(rollout, FRAMES, Exploration(0.0))
    assert replay.written == 0
    let.set()
    overlapped.finish(replay)
    overlapped.close()
    assert replay.written == FRAMES


def test_errors_of_play_reach_the_learner() -> None:
    overlapped = OverlappedPlay(policy())
    rollout = rollout_of(overlapped.policy)

    def broken(actions: Any) -> Any:
        raise ConnectionError("the simulator hung up")

    rollout.vector.step = broken  # type: ignore[method-assign]
    overlapped.start(rollout, FRAMES, Exploration(0.0))
    with pytest.raises(RuntimeError, match="CartPole-v1 failed: the simulator hung up"):
        overlapped.finish(empty())
    overlapped.close()


def test_a_run_does_not_depend_on_how_threads_are_scheduled(tmp_path: Path) -> None:
    """The same bits with play beside the updates, and with play that is over before them."""
    overlapped = {"overlap": True}
    settings = short(ann=overlapped, spiking=overlapped)
    one = Run(settings, tmp_path / "one", Watcher()).train()
    with pytest.MonkeyPatch.context() as patch:
        start = OverlappedPlay.start

        def started(self: OverlappedPlay, *arguments: Any) -> None:
            start(self, *arguments)
            assert self._finished is not None
            self._finished.result()

        patch.setattr(OverlappedPlay, "start", started)
        other = Run(settings, tmp_path / "other", Watcher()).train()
    for stage in one:
        mine, theirs = weights(one[stage].policy.network), weights(other[stage].policy.network)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), stage
