"""The event-driven engine: a plan, run by the compiled kernel, with explicit state."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snn_rl.errors import EngineError
from snn_rl.inference.plan import Array, Plan

Frames = NDArray[np.uint8] | NDArray[np.float32]


class EventState(NamedTuple):
    """Memory of a batch of environments; never changed in place.

    Attributes:
        membranes: float32 [batch, neurons] in the plan's order.
        history: the frames before this one, oldest first, [batch, stack - 1, *input_shape]; zeros
            before an episode's start. Without stacking the second axis is empty.
    """

    membranes: Array
    history: Frames


@dataclass
class _Memo:
    """The last frames seen and the first layers' sums on them, one row per environment. Not a
    part of the state: any frame may follow, it only takes longer the more pixels differ."""

    seen: NDArray[np.uint8]
    sums: Array


class _Scratch(threading.local):
    """What a thread keeps between calls to save time; nothing that a result depends on."""

    memo: _Memo | None = None
    floats: Array | None = None
    spikes: NDArray[np.uint8] | None = None


class EventEngine:
    """Runs a plan; calls from several threads do not disturb each other.

    Args:
        plan: from `snn_rl.inference.lowering.lower`.
        timesteps: spiking steps per frame.
        carry_membrane: False zeroes all membranes before every frame.

    Raises:
        EngineError: at so many timesteps the sums would not be exact.
    """

    def __init__(self, plan: Plan, timesteps: int, carry_membrane: bool = True) -> None:
        from snn_rl.inference.kernel import run  # compiles, or reads what was compiled

        if not 1 <= timesteps <= plan.most_timesteps:
            raise EngineError(
                f"the event-driven engine cannot run this network at T = {timesteps}: its "
                f"read-out is exact for T from 1 to {plan.most_timesteps}"
            )
        self.plan, self.timesteps, self.carry_membrane = plan, timesteps, carry_membrane
        self._run: Any = run
        self._scratch = _Scratch()
        self._no_counts = np.zeros((0, 0), np.int32)

    def __reduce__(self) -> tuple[Any, ...]:
        return EventEngine, (self.plan, self.timesteps, self.carry_membrane)

    def initial_state(self, batch: int) -> EventState:
        """State before the first frame of `batch` environments."""
        plan = self.plan
        history = np.zeros((batch, plan.stack - 1, *plan.input_shape), self._dtype)
        return EventState(np.zeros((batch, plan.neurons), np.float32), history)

    def step(
        self,
        frames: Frames,
        state: EventState,
        episode_start: NDArray[np.bool_] | None = None,
        counts: NDArray[np.int32] | None = None,
    ) -> tuple[Array, EventState]:
        """Q-values [batch, outputs] for one frame per environment, and the new state.

        Args:
            frames: [batch, *input_shape]; uint8 for pixels, else float32.
            state: from `initial_state` or an earlier step, for the same batch size; left as it is.
            episode_start: bool [batch]; forgets those environments before this frame.
            counts: [batch, neurons] of the plan, spikes are added to it.

        Raises:
            ValueError: shapes or types that do not fit the network or each other.
        """
        plan, batch = self.plan, len(frames)
        self._check(frames, state, episode_start)
        membranes, history = state
        if episode_start is not None and episode_start.any():
            history = history.copy()
            history[episode_start] = 0
            membranes = np.where(episode_start[:, None], np.float32(0), membranes)
        if not self.carry_membrane:
            membranes = np.zeros_like(membranes)
        if plan.stack > 1:
            stacked = np.concatenate([history, frames[:, None]], 1)
            frames, history = stacked, stacked[:, 1:]
        flat = np.ascontiguousarray(frames).reshape(batch, plan.inputs)
        pixels, observed = (
            (flat, np.empty((batch, 0), np.float32))
            if plan.pixels
            else (np.empty((batch, 0), np.uint8), flat)
        )
        q = np.empty((batch, plan.outputs), np.float32)
        after = np.empty((batch, plan.neurons), np.float32)
        floats, spikes, memo = self._room(batch)
        self._run(
            plan.program, plan.weights, plan.tables, pixels, observed, memo.seen, memo.sums,
            membranes, after, floats, spikes, self._no_counts if counts is None else counts, q,
            self.timesteps,
        )  # fmt: skip
        return q, EventState(after, history)

    def to_arrays(self, state: EventState) -> tuple[NDArray[Any], ...]:
        """A copy of a state as the torch network has it: the frame history (only if frames are
        stacked), then the membranes of every spiking layer, [batch, *shape]."""
        batch = len(state.membranes)
        arrays: list[NDArray[Any]] = [state.history.copy()] if self.plan.stack > 1 else []
        for layer in self.plan.layers:
            flat = np.empty((batch, layer.size), np.float32)
            flat[:, layer.order] = state.membranes[:, layer.neurons]
            arrays.append(flat.reshape(batch, *layer.shape))
        return tuple(arrays)

    def from_arrays(self, arrays: Sequence[Any]) -> EventState:
        """Reverse of `to_arrays`; arrays or tensors on the CPU.

        Raises:
            ValueError: they do not belong to this network, or are not finite.
        """
        given = [np.asarray(array) for array in arrays]
        batch = len(given[0]) if given and given[0].ndim else 0
        expected = [(batch, *layer.shape) for layer in self.plan.layers]
        if self.plan.stack > 1:
            expected.insert(0, (batch, self.plan.stack - 1, *self.plan.input_shape))
        if [array.shape for array in given] != expected:
            raise ValueError(
                f"state holds arrays of shape {[array.shape for array in given]}; this agent's "
                f"are {expected}"
            )
        state = self.initial_state(batch)
        if self.plan.stack > 1:
            state.history[:] = given.pop(0)
        for layer, array in zip(self.plan.layers, given, strict=True):
            state.membranes[:, layer.neurons] = array.reshape(batch, -1)[:, layer.order]
        if not np.isfinite(state.membranes).all():
            raise ValueError("state holds membranes that are not finite")
        return state

    @property
    def _dtype(self) -> type[np.generic]:
        return np.uint8 if self.plan.pixels else np.float32

    def _room(self, batch: int) -> tuple[Array, NDArray[np.uint8], _Memo]:
        """This thread's scratch, with a row of the memo for every environment."""
        plan, own = self.plan, self._scratch
        if own.floats is None or own.spikes is None:
            own.floats = np.zeros(plan.floats + plan.neurons, np.float32)
            own.spikes = np.zeros(plan.spikes, np.uint8)
        if own.memo is None or len(own.memo.seen) < batch:
            width = plan.inputs if plan.pixels else 0
            own.memo = _Memo(
                np.full((batch, width), plan.offset, np.uint8), np.tile(plan.sums, (batch, 1))
            )
        return own.floats, own.spikes, own.memo

    def _check(
        self, frames: Frames, state: EventState, episode_start: NDArray[np.bool_] | None
    ) -> None:
        plan, batch = self.plan, len(frames)
        if frames.shape[1:] != plan.input_shape or frames.dtype != self._dtype:
            raise ValueError(
                f"input is {frames.shape} {frames.dtype}; expected (batch, "
                f"{', '.join(map(str, plan.input_shape))}) {np.dtype(self._dtype)}"
            )
        if state.membranes.shape != (batch, plan.neurons):
            raise ValueError(
                f"state is for {state.membranes.shape} (environments, neurons); expected "
                f"{(batch, plan.neurons)}: use initial_state({batch})"
            )
        if episode_start is not None and (
            episode_start.shape != (batch,) or episode_start.dtype != np.bool_
        ):
            raise ValueError(
                f"episode_start is {episode_start.shape} {episode_start.dtype}; expected "
                f"{(batch,)} bool"
            )
