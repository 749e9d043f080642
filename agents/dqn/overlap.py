"""Roll-outs that are collected while the network learns, so that play costs no time of its own."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from snn_rl.agents.dqn.replay import SegmentReplay, Step
from snn_rl.agents.dqn.rollout import Exploration, Rollout
from snn_rl.agents.policy import Policy


class OverlappedPlay:
    """Plays one roll-out at a time in a thread, with the weights as they were at its start.

    Nothing that the thread reads or writes is touched by an update, so a run does not depend on
    how its threads are scheduled.

    Args:
        learner: its network is trained meanwhile.

    Attributes:
        policy: plays; a copy of `learner`.
    """

    def __init__(self, learner: Policy) -> None:
        self.learner = learner
        self.policy = replace(learner, network=learner.network.clone())
        self._thread = ThreadPoolExecutor(1, "play")
        self._steps: list[Step] = []
        self._finished: Future[list[tuple[float, int]]] | None = None

    def start(self, rollout: Rollout, frames: int, exploration: Exploration) -> None:
        """Begin a roll-out of `frames` frames; `rollout` plays `policy`."""
        self.policy.network.load_state_dict(self.learner.network.state_dict())
        self._steps = []
        self._finished = self._thread.submit(rollout.collect, self._steps, frames, exploration)

    def finish(self, replay: SegmentReplay) -> list[tuple[float, int]]:
        """Wait for the roll-out and store it; its episodes, and its errors, as `Rollout.collect`
        gives them."""
        assert self._finished is not None
        finished = self._finished.result()
        for step in self._steps:
            replay.append(step)
        return finished

    def close(self) -> None:
        """Wait for a roll-out that is going on and end the thread."""
        self._thread.shutdown()
