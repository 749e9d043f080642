"""An optimiser's state as the plain tree that a saved training is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def optimizer_state(optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """What an optimiser keeps for each parameter, by the parameter's number."""
    return {str(number): dict(kept) for number, kept in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Return to what `optimizer_state` gave. Tensors take their parameter's memory layout, which
    fused steps need."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def laid_out(value: Any, like: Tensor) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        return torch.empty_like(like, dtype=value.dtype).copy_(value)

    kept = {
        int(number): {name: laid_out(value, parameters[int(number)]) for name, value in of.items()}
        for number, of in state.items()
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": kept, "param_groups": groups})
