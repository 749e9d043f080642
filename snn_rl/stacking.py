"""Frame stacking with explicit history: each frame beside the ones before it in its episode."""

from __future__ import annotations

import torch
from torch import Tensor


def stack_frames(x: Tensor, history: Tensor, episode_start: Tensor | None) -> tuple[Tensor, Tensor]:
    """Put each frame beside the ones before it, oldest first, zeros before an episode's start.

    Args:
        x: [frames, batch, channels, ...]; history: [batch, stack - 1, channels, ...].
        episode_start: bool [frames, batch] or None.

    Returns:
        stacked [frames, batch, stack * channels, ...] and the history after the last frame.
    """
    older = history.shape[1]
    if episode_start is None:
        episode_start = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    start = torch.cat([episode_start.new_zeros(older, x.shape[1]), episode_start])
    at = torch.arange(older, older + len(x), device=x.device)[:, None].expand(-1, x.shape[1])
    stacked = stack_at(torch.cat([history.transpose(0, 1), x]), start, at, older + 1)
    return stacked.flatten(2, 3), stacked[-1, :, 1:]


def stack_at(x: Tensor, episode_start: Tensor, at: Tensor, count: int) -> Tensor:
    """The stacks of `count` frames that end at chosen frames, and no others.

    Args:
        x: [frames, batch, channels, ...]; episode_start: bool [frames, batch].
        at: int64 [chosen, batch], indices of frames, each at least count - 1.

    Returns:
        [chosen, batch, count, channels, ...], oldest frame first, zeros before an episode's start.
    """
    ages = torch.arange(count - 1, -1, -1, device=x.device)
    index = at.unsqueeze(2) - ages
    rows = torch.arange(x.shape[1], device=x.device).view(1, -1, 1)
    # episode[i] counts the starts up to frame i: frames of one stack must share it.
    episode = episode_start.long().cumsum(0)
    stacked = x[index, rows]
    other = episode[index, rows] != episode[at, rows[..., 0]].unsqueeze(2)
    stacked[other.nonzero(as_tuple=True)] = 0  # few rows: a mask would pass over all pixels
    return stacked
