"""The event-driven engine: a plan, run by the compiled kernel, with explicit state."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snn_rl.core.state import LIFState, State, check_fit, rows_of
from snn_rl.errors import EngineError
from snn_rl.inference.packing import Bytes, Packed, aligned, pack
from snn_rl.inference.plan import Array, Plan

_BOOL = np.dtype(np.bool_)  # compared in a third of the time that the type takes
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


class _Room(threading.local):
    """What a thread keeps between calls to save time; nothing that a result depends on.

    Attributes:
        scratch: bytes.
        memo: the last frames and the first layers' sums on them, a row of bytes per environment.
            Any frame may follow; it only takes longer the more pixels differ.
    """

    memo: Bytes | None = None
    scratch: Bytes

    def prepare(self, plan: Plan, packed: Packed, batch: int) -> Bytes:
        """The memo for a batch; a larger one begins anew."""
        if self.memo is None:
            self.scratch = aligned(packed.scratch)
        elif len(self.memo) >= batch:
            return self.memo
        self.memo = aligned(batch * packed.memo).reshape(batch, packed.memo)
        self.memo[:, packed.sums :] = plan.offset
        self.memo[:, : plan.sums.nbytes] = plan.sums.view(np.uint8)
        return self.memo


class EventEngine:
    """Runs a plan; calls from several threads do not disturb each other.

    Args:
        plan: from `snn_rl.inference.lowering.lower`.
        timesteps: spiking steps per frame.
        carry_membrane: False begins all membranes anew before every frame.

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
        self._room = _Room()
        self._neurons, self._inputs = plan.neurons, plan.inputs
        self._dtype = np.dtype(np.uint8 if plan.pixels else np.float32)
        self._packed = pack(plan)
        self._no_counts = np.zeros((0, 0), np.int32)

    def __reduce__(self) -> tuple[Any, ...]:
        return EventEngine, (self.plan, self.timesteps, self.carry_membrane)

    def initial_state(self, batch: int) -> EventState:
        """State before the first frame of `batch` environments."""
        plan = self.plan
        history = np.zeros((batch, plan.stack - 1, *plan.input_shape), self._dtype)
        return EventState(np.tile(plan.resting, (batch, 1)), history)

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
        plan, batch, room = self.plan, len(frames), self._room
        self._check(frames, state, episode_start)
        membranes, history = state
        if not self.carry_membrane:
            membranes = np.empty_like(membranes)
            membranes[:] = plan.resting
        if episode_start is not None and np.count_nonzero(episode_start):
            history = history.copy()
            history[episode_start] = 0
            membranes = np.where(episode_start[:, None], plan.resting, membranes)
        if plan.stack > 1:
            stacked = np.concatenate([history, frames[:, None]], 1)
            frames, history = stacked, stacked[:, 1:]
        if not frames.flags.carray:  # or the kernel has no type for it
            frames = np.require(frames, requirements=["C", "A", "W"])
        flat = frames.reshape(batch, self._inputs)
        flat = flat if plan.pixels else flat.view(np.uint8)
        q = np.empty((batch, plan.outputs), np.float32)
        after = np.empty((batch, self._neurons), np.float32)
        memo = room.prepare(plan, self._packed, batch)
        self._run(
            self._packed.memory, room.scratch, memo, flat, membranes, after,
            self._no_counts if counts is None else counts, q, self.timesteps,
        )  # fmt: skip
        return q, EventState(after, history)

    def to_arrays(self, state: EventState) -> State[NDArray[Any]]:
        """A copy of a state as the torch network has it."""
        history = state.history.copy() if self.plan.stack > 1 else None
        membranes = self.by_layer(state.membranes)
        return State(history, {name: LIFState(values) for name, values in membranes.items()})

    def by_layer(self, values: Array) -> dict[str, Array]:
        """Values [batch, neurons] of the plan by spiking layer, each [batch, *shape]."""
        arrays = {}
        for layer in self.plan.layers:
            flat = np.empty((len(values), layer.size), np.float32)
            flat[:, layer.order] = values[:, layer.neurons]
            arrays[layer.name] = flat.reshape(len(values), *layer.shape)
        return arrays

    def from_arrays(self, arrays: Any) -> EventState:
        """Reverse of `to_arrays`; arrays or tensors on the CPU.

        Raises:
            ValueError: they do not belong to this network, or are not finite.
        """
        batch = rows_of(arrays) or 0
        state = self.initial_state(batch)
        check_fit(arrays, self.to_arrays(state), batch)
        if self.plan.stack > 1:
            state.history[:] = np.asarray(arrays.history)
        for layer in self.plan.layers:
            membrane = np.asarray(arrays.layers[layer.name].membrane).reshape(-1, layer.size)
            state.membranes[:, layer.neurons] = membrane[:, layer.order]
        if not np.isfinite(state.membranes).all():
            raise ValueError("state holds membranes that are not finite")
        return state

    def _check(
        self, frames: Frames, state: EventState, episode_start: NDArray[np.bool_] | None
    ) -> None:
        batch, shape = len(frames), self.plan.input_shape
        if frames.shape[1:] != shape or frames.dtype != self._dtype:
            raise ValueError(
                f"input is {frames.shape} {frames.dtype}; expected (batch, "
                f"{', '.join(map(str, shape))}) {self._dtype}"
            )
        if state.membranes.shape != (batch, self._neurons):
            raise ValueError(
                f"state is for {state.membranes.shape} (environments, neurons); expected "
                f"{(batch, self._neurons)}: use initial_state({batch})"
            )
        if episode_start is not None and (
            episode_start.shape != (batch,) or episode_start.dtype != _BOOL
        ):
            raise ValueError(
                f"episode_start is {episode_start.shape} {episode_start.dtype}; expected "
                f"{(batch,)} bool"
            )
