"""Vectorised roll-outs: membranes are carried and reset per environment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from snn_rl.agents.acting import Actor
from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.dqn.replay import Step
from snn_rl.agents.policy import Policy
from snn_rl.core.state import filled, leaves
from snn_rl.envs import (
    UNBLANKED,
    EnvironmentFailure,
    NotRepeatable,
    UnsupportedEnvironment,
    restore,
    snapshot,
)
from snn_rl.envs.observation import ObservationPipeline

log = logging.getLogger(__name__)

_COUNTS = ("start", "last", "returns", "lengths")


def restored(like: Any, stored: Sequence[Any]) -> Any:
    """A network's state as `like`, from the tensors that `snn_rl.core.state.leaves` gave of one."""
    pairs = zip(stored, leaves(like), strict=True)
    return filled(like, [tensor.to(there.device) for tensor, there in pairs])


def _handed(state: Any, giver: Actor, taker: Actor) -> Any:
    """The state of one actor as another one of the same network has it."""
    return state if giver is taker else taker.from_arrays(giver.to_arrays(state))


class StepStore(Protocol):
    """Where the steps of a roll-out go: the replay, or a list."""

    def append(self, step: Step, /) -> None:
        """Store one step of all environments."""


@dataclass(frozen=True)
class Exploration:
    """Probabilities of a random action, and (otherwise) of the teacher's action.

    Environment i of N takes random actions with epsilon ** (1 + spread * i / (N - 1)).
    """

    epsilon: float
    teacher: float = 0.0
    spread: float = 0.0


def exploration(config: LearnerConfig, progress: float) -> Exploration:
    """Odds of random and of the teacher's actions at `progress` (0 to 1) through the stage."""
    high, low = config.epsilon
    epsilon = high + (low - high) * min(1.0, progress / config.explore)
    share = 0.0
    if config.teacher_acts > 0:
        share = max(0.0, 1 - progress / config.teacher_acts)
    return Exploration(epsilon, share, config.epsilon_spread)


class Rollout:
    """Plays a policy in NEXT_STEP vector environments and stores what happens.

    Args:
        vector: from `snn_rl.envs.make_vector`; reset here.
        env_id: for messages.
        pipeline: from raw observations to frames.
        policy: whose states are stored; `policy.network` may be trained in place between calls.
        player: gives who plays the next call of `collect`, by default the policy itself.
        teacher: labels every frame with its Q-values, with membranes of its own; where frames are
            blanked (flicker), it sees them as they were.
        generator: all exploration draws come from it.
        clip_rewards: store rewards clipped to -1...1 (returns stay as the game gives them).
        state_every: every so-manieth step, the first one included, holds the policy's state before
            it; 0 for none.
    """

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        env_id: str,
        pipeline: ObservationPipeline,
        policy: Policy,
        teacher: Policy | None,
        generator: np.random.Generator,
        *,
        clip_rewards: bool = False,
        state_every: int = 0,
        player: Callable[[], Actor] | None = None,
    ) -> None:
        count = vector.num_envs
        self.vector, self.env_id, self.pipeline = vector, env_id, pipeline
        self.policy, self.teacher, self.generator = policy, teacher, generator
        self.clip_rewards, self.state_every = clip_rewards, state_every
        self.player = player or (lambda: self.policy)
        self.taken = 0  # steps
        self.state = policy.initial_state(count)
        self.teacher_state: Any = teacher.initial_state(count) if teacher else None
        observation, self.info = vector.reset()
        self.frame = pipeline.encode(observation)
        self.start = np.ones(count, np.bool_)
        self.last = np.zeros(count, np.bool_)
        self.returns = np.zeros(count)
        self.lengths = np.zeros(count, np.int64)

    def state_dict(self) -> dict[str, Any]:
        """All that changes from step to step."""
        return {
            "environments": snapshot(self.vector),
            "state": leaves(self.state),
            "teacher_state": leaves(self.teacher_state),
            "taken": self.taken,
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Return to a state that `state_dict` gave; replays the unfinished episodes.

        False where the environment does not repeat: then all episodes have begun anew.
        """
        self.taken = state["taken"]
        try:
            observation, self.info = restore(self.vector, state["environments"])
        except NotRepeatable as error:
            log.warning(
                "%s: %s; its episodes begin anew, so not bit for bit (a new run from a finished "
                "stage: snn-rl train --from RUN/STAGE)",
                self.env_id, error,
            )  # fmt: skip
            observation, self.info = self.vector.reset()
            self.frame = self.pipeline.encode(observation)
            return False
        self.frame = self.pipeline.encode(observation)
        self.state = restored(self.state, state["state"])
        self.teacher_state = restored(self.teacher_state, state["teacher_state"])
        for name in _COUNTS:
            setattr(self, name, state[name].numpy())
        return True

    def collect(
        self, store: StepStore, frames: int, exploration: Exploration
    ) -> list[tuple[float, int]]:
        """Step all environments `frames` times; return and length of the episodes that ended."""
        finished: list[tuple[float, int]] = []
        player = self.player()
        state = _handed(self.state, self.policy, player)
        for _ in range(frames):
            state, ended = self._step(store, exploration, player, state)
            finished += ended
        self.state = _handed(state, player, self.policy)
        return finished

    def _step(
        self, store: StepStore, exploration: Exploration, player: Actor, state: Any
    ) -> tuple[Any, list[tuple[float, int]]]:
        seen = self.policy.view(self.frame, self.info, self.env_id)
        stores = self.state_every and self.taken % self.state_every == 0
        before = _handed(state, player, self.policy) if stores else None
        q, state = player.q_values(seen, state, self.start)
        teacher_q = None
        if self.teacher is not None:
            shown = self.teacher.view(self._unblanked(), self.info, self.env_id)
            teacher_q, self.teacher_state = self.teacher.q_values(
                shown, self.teacher_state, self.start
            )
        action = self._choose(q, teacher_q, exploration)
        try:
            observation, reward, terminated, truncated, self.info = self.vector.step(action)
        except (EnvironmentFailure, UnsupportedEnvironment):  # it is named already
            raise
        except Exception as error:
            raise RuntimeError(f"{self.env_id} failed: {error}") from error
        if not np.isfinite(reward).all():
            raise ValueError(f"{self.env_id} returned a reward that is not a finite number")
        stored = np.clip(reward, -1, 1) if self.clip_rewards else reward
        ends = (terminated, truncated)
        store.append(Step(seen, self.start, self.last, action, stored, *ends, teacher_q, before))
        self.taken += 1
        self.returns += reward
        self.lengths += ~self.last
        ended = terminated | truncated
        finished = [(float(self.returns[i]), int(self.lengths[i])) for i in np.flatnonzero(ended)]
        self.returns[ended] = 0
        self.lengths[ended] = 0
        # NEXT_STEP: the frame after an end is the final one; the one after that starts anew.
        self.frame = self.pipeline.encode(observation)
        self.start, self.last = self.last, ended
        return state, finished

    def _unblanked(self) -> NDArray[Any]:
        """The newest frame, before flicker."""
        if UNBLANKED not in self.info:
            return self.frame
        return self.pipeline.encode(self.info[UNBLANKED])

    def _choose(
        self, q: NDArray[np.float32], teacher_q: NDArray[np.float32] | None, odds: Exploration
    ) -> NDArray[np.int64]:
        count, actions = q.shape
        draws = self.generator.random((2, count))
        action = q.argmax(1)
        if teacher_q is not None:
            action = np.where(draws[0] < odds.teacher, teacher_q.argmax(1), action)
        random = self.generator.integers(actions, size=count)
        epsilon = odds.epsilon ** (1 + odds.spread * np.linspace(0, 1, count))
        return np.where(draws[1] < epsilon, random, action)
