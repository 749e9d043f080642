"""How networks are run over the segments of a stage, on its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_rl.core.network import Network, SpikeHook, State


@dataclass(frozen=True)
class Execution:
    """How the online and the target network are run.

    Attributes:
        amp: convolutions and linear layers compute in bfloat16.
    """

    timesteps: int
    carry_membrane: bool
    amp: bool

    def __call__(
        self,
        network: Network,
        frames: Tensor,
        state: State | None,
        start: Tensor | None,
        on_spikes: SpikeHook | None = None,
    ) -> tuple[Tensor, State]:
        """Q-values [F, B, actions] in float32, and the state after the last of the frames."""
        # Spikes, membranes and thresholds are float32 in any case: see `lif_scan`.
        with torch.autocast(network.device.type, torch.bfloat16, enabled=self.amp):
            q, state = network(
                frames,
                state,
                start,
                timesteps=self.timesteps,
                carry_membrane=self.carry_membrane,
                on_spikes=on_spikes,
            )
        return q.float() if self.amp else q, state


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor; the copy to a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # only from pinned memory does a copy run beside computation
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
