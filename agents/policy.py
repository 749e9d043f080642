"""How torch runs a network on environments: its timesteps, its memory, what it looks at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn_rl.agents.acting import Arrays, EngineName, full_state, view
from snn_rl.core.network import Network, SpikeHook, State
from snn_rl.core.state import check_fit, mapped, rows_of

__all__ = ["Policy", "full_state"]


@dataclass
class Policy:
    """A Q-network with the way it is run; `state` is the caller's to keep.

    Attributes:
        network: observation frames -> Q-values.
        timesteps: spiking steps per frame.
        carry_membrane: membranes survive from frame to frame.
        privileged: reads info["full_state"] instead of the observation.
    """

    network: Network
    timesteps: int = 1
    carry_membrane: bool = True
    privileged: bool = False

    @property
    def engine(self) -> EngineName:
        """What runs it."""
        return "torch"

    @property
    def spiking(self) -> bool:
        """False for an ANN."""
        return bool(self.network.spiking)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One frame."""
        return self.network.input_shape

    @property
    def remembers(self) -> bool:
        """Whether what layers keep tells a frame about those before it."""
        return self.network.sequential and self.carry_membrane

    def initial_state(self, batch: int) -> State:
        """State before the first frame of `batch` environments."""
        return self.network.initial_state(batch)

    @torch.no_grad()
    def q_values(
        self,
        frames: NDArray[Any],
        state: State,
        start: NDArray[np.bool_],
        on_spikes: SpikeHook | None = None,
    ) -> tuple[NDArray[np.float32], State]:
        """Q-values [batch, actions] for one frame per environment, and the new state.

        Args:
            frames: [batch, *frame_shape].
            start: bool [batch], first frames of an episode: their state is zeroed before.
        """
        device = self.network.device
        q, state = self.network(
            torch.from_numpy(frames)[None].to(device),
            state,
            torch.from_numpy(start)[None].to(device),
            timesteps=self.timesteps,
            carry_membrane=self.carry_membrane,
            on_spikes=on_spikes,
        )
        return q[0].cpu().numpy(), state

    def select(self, state: State, rows: NDArray[np.bool_]) -> State:
        """The state of those environments alone."""
        kept = torch.from_numpy(rows)
        return mapped(lambda tensor: tensor[kept], state)

    def to_arrays(self, state: State) -> Arrays:
        """A copy of a state as arrays [batch, ...]; see Actor."""
        found: Any = state
        copied: Arrays = mapped(lambda tensor: tensor.cpu().numpy().copy(), found)
        return copied

    def from_arrays(self, arrays: Any) -> State:
        """Reverse of `to_arrays`. Raises ValueError where they do not fit."""
        check_fit(arrays, self.initial_state(0), rows_of(arrays) or 0)
        device = self.network.device
        state: State = mapped(lambda array: torch.tensor(np.asarray(array), device=device), arrays)
        return state

    def with_options(self, timesteps: int, carry_membrane: bool) -> Policy:
        """The same network run in another way."""
        return replace(self, timesteps=timesteps, carry_membrane=carry_membrane)

    def view(self, frames: NDArray[Any], info: dict[str, Any], env_id: str) -> NDArray[Any]:
        """What this policy looks at: the frames, or the privileged state in `info`.

        Raises:
            SnnRlError: the environment reports no full state.
        """
        return view(self, frames, info, env_id)
