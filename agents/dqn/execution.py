"""How networks are run over the segments of a stage, on its device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snn_rl.core.state import Unrolled


@runtime_checkable
class Learnable(Protocol):
    """What training asks of a torch module of Q-values; its state is its own affair.

    Acting needs `snn_rl.agents.acting.Actor` alone.

    Attributes:
        sequential: whether frames run one after the other, since it keeps something in between.
        stack, offset: frames that it sees at once, and the grey level that counts as zero.
    """

    stack: int
    offset: int

    @property
    def sequential(self) -> bool: ...
    @property
    def device(self) -> torch.device: ...

    def initial_state(self, batch: int) -> Any:
        """State at the start of an episode."""

    def __call__(
        self,
        x: Tensor,
        state: Any,
        episode_start: Tensor | None,
        *,
        timesteps: int,
        carry_membrane: bool,
    ) -> tuple[Tensor, Any]:
        """Q-values [frames, batch, actions] of frames [frames, batch, ...], and the new state."""

    def unroll(
        self,
        x: Tensor,
        state: Any,
        episode_start: Tensor | None,
        *,
        timesteps: int,
        carry_membrane: bool,
    ) -> Unrolled[Tensor]:
        """The same with what a loss may ask of the segment."""

    def constrain(self) -> None:
        """Bring parameters back into their range after an optimiser step."""

    def clone(self) -> Self:
        """An independent copy with the same parameters."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained."""


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
        self, network: Learnable, frames: Tensor, state: Any, start: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Q-values [F, B, actions] in float32, and the state after the last of the frames."""
        with self._precision(network):
            q, state = network(frames, state, start, **self._options)
        return q.float() if self.amp else q, state

    def unroll(
        self, network: Learnable, frames: Tensor, state: Any, start: Tensor | None
    ) -> Unrolled[Tensor]:
        """The same, with spike rates."""
        with self._precision(network):
            run = network.unroll(frames, state, start, **self._options)
        return run._replace(output=run.output.float()) if self.amp else run

    @property
    def _options(self) -> dict[str, Any]:
        return {"timesteps": self.timesteps, "carry_membrane": self.carry_membrane}

    def _precision(self, network: Learnable) -> torch.autocast:
        # Spikes, membranes and thresholds are float32 in any case: see `lif_scan`.
        return torch.autocast(network.device.type, torch.bfloat16, enabled=self.amp)


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor; the copy to a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # only from pinned memory does a copy run beside computation
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
