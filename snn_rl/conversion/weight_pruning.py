"""Spatial pruning by magnitude: which weights stay, and keeping the others at zero.

Source: Han et al. 2015; Chowdhury, Rathi and Roy 2022, section 5 ("T1 with spatial pruning").
"""

from __future__ import annotations

import torch
from torch import Tensor

from snn_rl.core.network import Network
from snn_rl.errors import SnnRlError

Masks = dict[str, Tensor]
"""By layer: bool in the weight's shape, True where a weight stays."""


@torch.no_grad()
def magnitude_masks(network: Network, density: float) -> Masks:
    """Keep the largest `density` (0 to 1) of all weights, each measured in its layer's deviation.

    Spike amplitudes are folded into the weights, so that layers differ in scale; dividing by the
    standard deviation of a layer's non-zero weights makes them comparable (Han et al. cut each
    layer at a multiple of it).

    Raises:
        SnnRlError: a density that is no share.
    """
    if not 0 < density <= 1:
        raise SnnRlError(f"density is the share of weights that stays, not {density}")
    names = [node.name for node in network.nodes if node.operation.weighted]
    scores = {name: _score(network.weighted(name).weight) for name in names}
    every = torch.cat([score.flatten() for score in scores.values()])
    removed = len(every) - round(density * len(every))
    if removed == 0:
        return {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    # kthvalue runs on the CPU: 40 million scores at once are too many for some devices.
    limit = every.cpu().kthvalue(removed).values.to(every.device)
    return {name: score > limit for name, score in scores.items()}


@torch.no_grad()
def apply_masks(network: Network, masks: Masks) -> None:
    """Zero the weights that do not stay, in place; call after every optimiser step."""
    for name, mask in masks.items():
        network.weighted(name).weight.mul_(mask)


def density(network: Network) -> float:
    """Share of non-zero weights in all linear and convolution layers."""
    names = [node.name for node in network.nodes if node.operation.weighted]
    weights = [network.weighted(name).weight for name in names]
    kept = sum(int(weight.count_nonzero()) for weight in weights)
    return kept / int(sum(weight.numel() for weight in weights))


def _score(weight: Tensor) -> Tensor:
    kept = weight[weight != 0]
    return weight.abs() / kept.std() if kept.numel() > 1 else weight.abs()
