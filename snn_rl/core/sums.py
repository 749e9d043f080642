"""Sums of a linear layer whose bits depend on no order of adding (contract, 8).

On the weight grid every sum of spikes is exact. Values that lie on no grid are few and add up in
float64; the read-out takes the spikes of all timesteps at once.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def read_out(layer: nn.Linear, total: Tensor, timesteps: int) -> Tensor:
    """Mean over the timesteps of the layer's output, of the spikes' sum [..., in_features]."""
    result = functional.linear(total, layer.weight)
    result = result if layer.bias is None else result + timesteps * layer.bias
    return result / timesteps


def read_real(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer's output in float64 for x [..., in_features], also float64: rounded to float32
    its few terms give the same in any order, so that engines and batch sizes agree."""
    bias = None if layer.bias is None else layer.bias.double()
    return functional.linear(x, layer.weight.double(), bias)
