"""How frames enter a network: pixels scaled, each frame beside the ones before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snn_rl.core.operations import PIXEL_UNIT


def scale_pixels(x: Tensor, offset: int) -> Tensor:
    """Pixels (uint8) from grey level `offset`, float32; other tensors as they are."""
    if x.dtype != torch.uint8:
        return x
    # Whole numbers below 256 in magnitude: sums stay exact on the weight grid.
    return x.to(torch.float32).sub_(offset).mul_(PIXEL_UNIT)


def stack_frames(
    x: Tensor, history: Tensor, episode_start: Tensor | None, offset: int
) -> tuple[Tensor, Tensor]:
    """Put each frame beside the ones before it, oldest first, zeros before an episode's start.

    Args:
        x: [frames, batch, channels, ...]; history: [batch, stack - 1, channels, ...].
        episode_start: bool [frames, batch] or None.
        offset: grey level that pixels count from.

    Returns:
        stacked [frames, batch, stack * channels, ...] as `stack_at` gives it, and the history after
        the last frame.
    """
    older = history.shape[1]
    if episode_start is None:
        episode_start = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    start = torch.cat([episode_start.new_zeros(older, x.shape[1]), episode_start])
    frames = torch.cat([history.transpose(0, 1), x])
    at = torch.arange(older, len(frames), device=x.device)[:, None].expand(-1, x.shape[1])
    after = frames[-older:].transpose(0, 1).clone(memory_format=torch.contiguous_format)
    begun = _first_of_episode(start)[-1]
    ages = torch.arange(len(frames) - older, len(frames), device=x.device)
    _blank(after, ages < begun[:, None])
    return stack_at(frames, start, at, older + 1, offset), after


def stack_at(x: Tensor, episode_start: Tensor, at: Tensor, count: int, offset: int) -> Tensor:
    """The stacks of `count` frames that end at chosen frames, and no others.

    Args:
        x: [frames, batch, channels, ...]; episode_start: bool [frames, batch].
        at: int64 [chosen, batch], indices of frames, each at least count - 1.
        offset: grey level that pixels count from.

    Returns:
        [chosen, batch, count * channels, ...], oldest frame first, zeros before an episode's
        start; pixels are scaled. The channels of images lie innermost in memory, as convolutions
        like them best.
    """
    rows = torch.arange(x.shape[1], device=x.device)
    first = _first_of_episode(episode_start)[at, rows]
    if x.dtype == torch.uint8 and x.dim() == 5 and x.device.type == "cpu":
        return _stack_pixels(x, at, first, count, offset)
    index = at.unsqueeze(2) - torch.arange(count - 1, -1, -1, device=x.device)
    stacked = x[index, rows[:, None]]
    _blank(stacked, index < first.unsqueeze(2))
    return scale_pixels(stacked.flatten(2, 3), offset)


def _first_of_episode(episode_start: Tensor) -> Tensor:
    """Index of the first frame of each frame's episode, [frames, batch]; 0 if it is not there."""
    number = torch.arange(len(episode_start), device=episode_start.device)[:, None]
    return torch.where(episode_start, number, 0).cummax(0).values


def _blank(x: Tensor, rows: Tensor) -> None:
    """Zero the rows where `rows`, bool of the leading dimensions, is True."""
    x[rows.nonzero(as_tuple=True)] = 0  # they are few, and a mask would pass over all values


def _stack_pixels(x: Tensor, at: Tensor, first: Tensor, count: int, offset: int) -> Tensor:
    """`stack_at` in one pass over the pixels, where torch operators take six."""
    from snn_rl.core import kernels

    frames, batch, channels, *image = x.shape
    stacked = torch.empty(len(at), batch, *image, count * channels)
    levels = scale_pixels(torch.arange(256, dtype=torch.uint8), offset)
    fill: Any = kernels.stack_pixels
    fill(
        x.contiguous().view(frames, batch, channels, -1).numpy(),
        at.contiguous().numpy(),
        first.numpy(),
        levels.numpy(),
        stacked.view(len(at), batch, -1, count * channels).numpy(),
    )
    return stacked.movedim(-1, 2)
