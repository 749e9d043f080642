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
    frames, older = x.shape[0], history.shape[1]
    everything = torch.cat([history.transpose(0, 1), x])
    if episode_start is None:
        episode_start = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    # episode[i] counts the starts up to frame i: frames of one stack must share it.
    episode = episode_start.long().cumsum(0)
    episode = torch.cat([episode.new_zeros(older, x.shape[1]), episode])
    extra = (1,) * (x.dim() - 2)

    def keep(begin: int, last: Tensor) -> Tensor:
        other = episode[begin : begin + len(last)] != last
        frames_there = everything[begin : begin + len(last)]
        return frames_there.masked_fill(other.view(*other.shape, *extra), 0)

    stacked = torch.cat([keep(begin, episode[older:]) for begin in range(older + 1)], dim=2)
    rest = keep(frames, episode[-1:].expand(older, -1))
    return stacked, rest.transpose(0, 1)
