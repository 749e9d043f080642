"""A running average of a network's weights and statistics over the updates of its training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snn_rl.core.network import Network


class WeightAverage:
    """Average that forgets: mean <- keep * mean + (1 - keep) * values, after every update.

    The first updates count more, so that the average does not remember the random start.

    Args:
        network: whose weights, thresholds, leaks and running statistics are averaged.
        keep: share of the mean that an update leaves, 0 to 1; 0 follows the network itself.
    """

    def __init__(self, network: Network, keep: float) -> None:
        self.keep, self.updates = keep, 0
        self.values = {n: v.detach().clone() for n, v in _averaged(network).items()}

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Let one update's values in."""
        self.updates += 1
        keep = min(self.keep, self.updates / (10 + self.updates))
        torch._foreach_lerp_(
            list(self.values.values()), list(_averaged(network).values()), 1 - keep
        )

    def applied(self, network: Network) -> Network:
        """Copy of `network` with the averages in place of its values."""
        copy = network.clone()
        copy.load_state_dict(copy.state_dict() | self.values)
        return copy

    def state_dict(self) -> dict[str, object]:
        """All that changes."""
        return {"updates": self.updates, "values": dict(self.values)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Return to a state that `state_dict` gave."""
        self.updates = int(str(state["updates"]))
        values = state["values"]
        assert isinstance(values, Mapping)
        for name, value in self.values.items():
            value.copy_(values[name])


def _averaged(network: Network) -> dict[str, Tensor]:
    return {n: v for n, v in network.state_dict().items() if v.is_floating_point()}
