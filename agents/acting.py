"""How an agent's network is run, whatever runs it: what roll-outs, evaluation and Agent need.

Three classes are of this kind: `snn_rl.agents.policy.Policy` runs torch, `EventPolicy` here the
event-driven engine, `snn_rl.agents.automatic.Automatic` whichever of them pays. Nothing here
imports torch before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from snn_rl.core.state import State
from snn_rl.errors import SnnRlError
from snn_rl.inference.engine import EventEngine, EventState

EngineName = Literal["event", "torch"]
Arrays = State[NDArray[Any]]
"""A network's state, whatever ran it."""


class KnownState(State[NDArray[Any]]):
    """A state that knows which weights it is of ("" where that is unknown)."""

    of: str = ""


@runtime_checkable
class Actor(Protocol):
    """A network with the way it is run; the caller keeps the state, whose arrays have one row per
    environment and which is otherwise the actor's own affair.

    Attributes:
        engine: what runs it.
        timesteps: spiking steps per frame.
        carry_membrane: membranes survive from frame to frame.
        privileged: reads info["full_state"] instead of the observation.
        spiking: False for an ANN.
        input_shape: one frame.
    """

    @property
    def engine(self) -> EngineName: ...
    @property
    def timesteps(self) -> int: ...
    @property
    def carry_membrane(self) -> bool: ...
    @property
    def privileged(self) -> bool: ...
    @property
    def spiking(self) -> bool: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...

    def initial_state(self, batch: int) -> Any:
        """State before the first frame of `batch` environments."""

    def q_values(
        self,
        frames: NDArray[Any],
        state: Any,
        start: NDArray[np.bool_],
        on_spikes: Callable[[str, Any], None] | None = None,
    ) -> tuple[NDArray[np.float32], Any]:
        """Q-values [batch, actions] for one frame per environment, and the new state.

        Args:
            frames: [batch, *input_shape].
            start: bool [batch], first frames of an episode: their state is forgotten before.
            on_spikes: called as (layer, spikes) with a tensor [1, timesteps or 1, batch, ...];
                where it holds 1 for all timesteps, their sum.
        """

    def select(self, state: Any, rows: NDArray[np.bool_]) -> Any:
        """The state of those environments alone."""

    def to_arrays(self, state: Any) -> Any:
        """A copy of a state, in NumPy arrays, that any actor of the same network can go on from."""

    def from_arrays(self, arrays: Any) -> Any:
        """Reverse of `to_arrays`. Raises ValueError where they do not fit."""

    def with_options(self, timesteps: int, carry_membrane: bool) -> Actor:
        """The same network run in another way. Raises EngineError where it cannot be."""


@dataclass(frozen=True)
class EventPolicy:
    """A spiking network run by the event-driven engine; see Actor."""

    runner: EventEngine
    privileged: bool = False
    engine: EngineName = "event"
    spiking: bool = True

    @property
    def timesteps(self) -> int:
        """Spiking steps per frame."""
        return self.runner.timesteps

    @property
    def carry_membrane(self) -> bool:
        """Membranes survive from frame to frame."""
        return self.runner.carry_membrane

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One frame."""
        return self.runner.plan.input_shape

    def initial_state(self, batch: int) -> EventState:
        """State before the first frame of `batch` environments."""
        return self.runner.initial_state(batch)

    def q_values(
        self,
        frames: NDArray[Any],
        state: EventState,
        start: NDArray[np.bool_],
        on_spikes: Callable[[str, Any], None] | None = None,
    ) -> tuple[NDArray[np.float32], EventState]:
        """Q-values [batch, actions] and the new state; see Actor."""
        if on_spikes is None:
            return self.runner.step(frames, state, start)
        counts = np.zeros((len(frames), self.runner.plan.neurons), np.int32)
        q, after = self.runner.step(frames, state, start, counts)
        self.tell(on_spikes, counts)
        return q, after

    def tell(self, on_spikes: Callable[[str, Any], None], counts: NDArray[np.int32]) -> None:
        """Hand spikes [batch, neurons] over as `q_values` does."""
        import torch

        for layer, values in self.runner.by_layer(counts.astype(np.float32)).items():
            on_spikes(layer, torch.from_numpy(values)[None, None])

    def select(self, state: EventState, rows: NDArray[np.bool_]) -> EventState:
        """The state of those environments alone."""
        return EventState(state.membranes[rows], state.history[rows])

    def to_arrays(self, state: EventState) -> Arrays:
        """A copy of a state, as torch has it; see Actor."""
        return self.runner.to_arrays(state)

    def from_arrays(self, arrays: Any) -> EventState:
        """Reverse of `to_arrays`. Raises ValueError where they do not fit."""
        return self.runner.from_arrays(arrays)

    def with_options(self, timesteps: int, carry_membrane: bool) -> EventPolicy:
        """The same network run in another way. Raises EngineError where it cannot be."""
        runner = EventEngine(self.runner.plan, timesteps, carry_membrane)
        return replace(self, runner=runner)


def view(actor: Actor, frames: NDArray[Any], info: dict[str, Any], env_id: str) -> NDArray[Any]:
    """What an actor looks at: the frames, or the privileged state in `info`.

    Raises:
        SnnRlError: the environment reports no full state, or another than the actor reads.
    """
    if not actor.privileged:
        return frames
    state = full_state(info, env_id)
    if state.shape[1:] != actor.input_shape:
        raise SnnRlError(
            f"{env_id} reports a full state of shape {state.shape[1:]}, but the agent reads "
            f"{actor.input_shape}: it is of another environment, or its card is damaged"
        )
    return state


def full_state(info: dict[str, Any], env_id: str) -> NDArray[np.float32]:
    """info["full_state"] of a vector environment, [batch, features].

    Raises:
        SnnRlError: the environment reports none, or not in every step.
    """
    state = info.get("full_state")
    if state is None or not np.all(info.get("_full_state", True)):
        raise SnnRlError(
            f"{env_id} reports no info['full_state']: choose another teacher, e.g. stack:4"
        )
    return np.stack(list(state)).astype(np.float32)
