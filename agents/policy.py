"""How a network is run on environments: its timesteps, its memory, what it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn_rl.core.network import Network, SpikeHook, State
from snn_rl.errors import SnnRlError


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
    def remembers(self) -> bool:
        """Whether membranes tell a frame about those before it."""
        return bool(self.network.spiking) and self.carry_membrane

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

    def view(self, frames: NDArray[Any], info: dict[str, Any], env_id: str) -> NDArray[Any]:
        """What this policy looks at: the frames, or the privileged state in `info`.

        Raises:
            SnnRlError: the environment reports no full state.
        """
        return full_state(info, env_id) if self.privileged else frames


def full_state(info: dict[str, Any], env_id: str) -> NDArray[np.float32]:
    """info["full_state"] of a vector environment, [batch, features].

    Raises:
        SnnRlError: the environment reports none.
    """
    state = info.get("full_state")
    if state is None:
        raise SnnRlError(
            f"{env_id} reports no info['full_state']: choose another teacher, e.g. stack:4"
        )
    return np.stack(list(state)).astype(np.float32)
