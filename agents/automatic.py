"""What engine="auto" is once an agent plays: the rule of snn_rl.inference.choice, at the batch that
comes, over the rates of the agent's card, or over those of its first frames where it tells none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.acting import Actor, Arrays, EngineName, EventPolicy
from snn_rl.inference.choice import Weighing, weigh
from snn_rl.inference.engine import EventState

if TYPE_CHECKING:
    from snn_rl.core.network import Network

FRAMES = 256
"""Frames on which unknown rates are measured, of all environments together."""
log = logging.getLogger(__name__)


class ChangeCounter:
    """Counts the pixels that differ from the frame before."""

    def __init__(self) -> None:
        self.before: NDArray[Any] | None = None
        self.pixels = self.frames = 0

    def observe(self, frames: NDArray[Any], start: NDArray[np.bool_]) -> None:
        """Take note of the next frames [batch, ...]; those of vectors do not count, nor do those
        of a batch in which an episode starts or that has another size than the one before."""
        if frames.dtype == np.uint8:
            before = self.before
            if before is not None and before.shape == frames.shape and not start.any():
                self.pixels += int(np.count_nonzero(frames != before))
                self.frames += len(frames)
            self.before = frames.copy()

    def select(self, rows: NDArray[np.bool_]) -> None:
        """Go on with those environments alone."""
        if self.before is not None:
            self.before = self.before[rows]

    @property
    def mean(self) -> float | None:
        """Pixels per frame; None where none were seen."""
        return self.pixels / self.frames if self.frames else None


class Automatic:
    """An Actor: a spiking network in the engine that pays, to which states are carried over.

    It begins event-driven where the rates are not known. Both engines give the same bits, so that
    only the time depends on when they change.

    Attributes:
        engine: what ran the newest frames.

    Args:
        event: the network event-driven.
        load_network: gives it in torch.
        weighed: the network's work; None: measured in its first frames.
    """

    spiking = True

    def __init__(
        self,
        event: EventPolicy,
        load_network: Callable[[], Network],
        weighed: Weighing | None = None,
    ) -> None:
        self.event, self._load_network, self._weighed = event, load_network, weighed
        self.engine: EngineName = "event"
        self._torch: Actor | None = None
        self._counts = np.zeros(event.runner.plan.neurons, np.int64)
        self._frames, self._changes, self._lock = 0, ChangeCounter(), threading.Lock()

    @property
    def timesteps(self) -> int:
        """Spiking steps per frame."""
        return self.event.timesteps

    @property
    def carry_membrane(self) -> bool:
        """Membranes survive from frame to frame."""
        return self.event.carry_membrane

    @property
    def privileged(self) -> bool:
        """Reads info["full_state"] instead of the observation."""
        return self.event.privileged

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One frame."""
        return self.event.input_shape

    def initial_state(self, batch: int) -> Any:
        """State before the first frame of `batch` environments."""
        return self._chosen(batch).initial_state(batch)

    def q_values(
        self,
        frames: NDArray[Any],
        state: Any,
        start: NDArray[np.bool_],
        on_spikes: Callable[[str, Any], None] | None = None,
    ) -> tuple[NDArray[np.float32], Any]:
        """Q-values [batch, actions] and the new state; see Actor."""
        actor, owner = self._chosen(len(frames)), self._owner(state)
        if owner is not actor:
            state = actor.from_arrays(owner.to_arrays(state))
        if self._weighed is not None:
            return actor.q_values(frames, state, start, on_spikes)
        counts = np.zeros((len(frames), len(self._counts)), np.int32)
        q, after = self.event.runner.step(frames, state, start, counts)
        self._measure(frames, start, counts)
        if on_spikes is not None:
            self.event.tell(on_spikes, counts)
        return q, after

    def select(self, state: Any, rows: NDArray[np.bool_]) -> Any:
        """The state of those environments alone."""
        return self._owner(state).select(state, rows)

    def to_arrays(self, state: Any) -> Arrays:
        """A copy of a state, as torch has it; see Actor."""
        arrays: Arrays = self._owner(state).to_arrays(state)
        return arrays

    def from_arrays(self, arrays: Any) -> Any:
        """Reverse of `to_arrays`. Raises ValueError where they do not fit."""
        return self.event.from_arrays(arrays)

    def with_options(self, timesteps: int, carry_membrane: bool) -> Automatic:
        """The same network run in another way, its rates unknown; see Actor."""
        return Automatic(self.event.with_options(timesteps, carry_membrane), self._load_network)

    def _owner(self, state: Any) -> Actor:
        """Whose state it is."""
        return self.event if isinstance(state, EventState) else self._in_torch()

    def _chosen(self, batch: int) -> Actor:
        """What runs so many environments."""
        if self._weighed is None:
            return self.event
        pays = self._weighed.pays(batch)
        self.engine = "event" if pays else "torch"
        return self.event if pays else self._in_torch()

    def _in_torch(self) -> Actor:
        if self._torch is None:
            from snn_rl.agents.policy import Policy

            self._torch = Policy(
                self._load_network(), self.timesteps, self.carry_membrane, self.privileged
            )
        return self._torch

    def _measure(
        self, frames: NDArray[Any], start: NDArray[np.bool_], counts: NDArray[np.int32]
    ) -> None:
        with self._lock:
            self._counts += counts.sum(0)
            self._frames += len(frames)
            self._changes.observe(frames, start)
            if self._frames < FRAMES:
                return
            plan = self.event.runner.plan
            rates = {
                layer.name: float(self._counts[layer.neurons].mean()) / self._frames
                for layer in plan.layers
            }
            if self._weighed is None:
                self._weighed = weigh(plan, rates, self.timesteps, changed=self._changes.mean)
                log.info("measured on %d frames: %s", self._frames, self._weighed)
