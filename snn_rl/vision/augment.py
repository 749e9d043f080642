"""Random crops, flips and cutout on whole batches of uint8 images, on their own device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augment(
    images: Tensor,
    generator: torch.Generator,
    *,
    crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
) -> Tensor:
    """Each image changed at random.

    Args:
        images: uint8 [batch, channels, height, width]; not changed.
        generator: on the CPU, so that every device draws the same numbers.
        crop: pixels of black border from which a crop of the image's size is cut.
        flip: mirror half of the images.
        cutout: side of a black square centred anywhere (DeVries and Taylor 2017); 0: none.

    Returns:
        uint8, same shape and device.
    """
    if crop:
        images = _crop(images, generator, crop)
    if flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(_column(mirrored, images), images.flip(3), images)
    if cutout:
        images = _cutout(images, generator, cutout)
    return images


def _crop(images: Tensor, generator: torch.Generator, border: int) -> Tensor:
    batch, _, height, width = images.shape
    padded = functional.pad(images, (border,) * 4)
    top, left = torch.randint(0, 2 * border + 1, (2, batch, 1), generator=generator)
    rows = (top + torch.arange(height)).to(images.device)
    columns = (left + torch.arange(width)).to(images.device)
    item = torch.arange(batch, device=images.device)
    # Advanced indices around a slice come first: [batch, height, width, channels].
    cut = padded[item[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).contiguous()


def _cutout(images: Tensor, generator: torch.Generator, side: int) -> Tensor:
    batch, _, height, width = images.shape

    def covered(length: int) -> Tensor:
        start = torch.randint(0, length, (batch, 1), generator=generator) - side // 2
        at = torch.arange(length)
        return (at >= start) & (at < start + side)

    square = covered(height)[:, :, None] & covered(width)[:, None, :]
    return images.masked_fill(square[:, None].to(images.device), 0)


def _column(mask: Tensor, images: Tensor) -> Tensor:
    return mask.to(images.device).view(-1, 1, 1, 1)
