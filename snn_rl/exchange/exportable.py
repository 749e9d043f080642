"""What another runtime is given: a network, the way it is run, and what its card says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snn_rl.core.network import Network
from snn_rl.exchange.one_frame import OneFrame


@dataclass(frozen=True)
class Exportable:
    """What every export needs to know.

    Attributes:
        network: in torch, on any device; exports copy it.
        timesteps: spiking steps per frame.
        carry: membranes survive from frame to frame.
        scale: factor per feature of a raw vector, () for none.
        card: "stage", "environment" and "observation" as an agent.json has them.
    """

    network: Network
    timesteps: int
    carry: bool
    scale: tuple[float, ...]
    card: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Its stage and environment."""
        return f"{self.card.get('stage')} for {self.card['environment']['env_id']}"

    def one_frame(self) -> OneFrame:
        """The network from the frame as its environment gives it (grey and resized).

        Raises:
            SnnRlError: names the layer that exporters have no operators for.
        """
        return OneFrame(self.network, self.timesteps, carry=self.carry, scale=self.scale)
