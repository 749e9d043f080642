"""What is done to images in training."""

from __future__ import annotations

import torch

from snn_rl.vision.augment import alternating, augment, mixup


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_crop_shifts_within_the_border() -> None:
    images = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).repeat(50, 1, 1, 1)
    before = images.clone()
    cropped = augment(images, drawn(), crop=2)
    assert torch.equal(images, before)
    padded = torch.nn.functional.pad(images[:1], (2, 2, 2, 2))
    windows = [padded[0, 0, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    possible = {window.numpy().tobytes() for window in windows}
    found = {item[0].numpy().tobytes() for item in cropped}
    assert found <= possible
    assert len(found) > 10


def test_flip_mirrors_about_half_and_cutout_blackens_a_square() -> None:
    images = torch.randint(1, 256, (200, 3, 8, 8), dtype=torch.uint8, generator=drawn())
    flipped = augment(images, drawn(), flip=True)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert 70 < int(mirrored.sum()) < 130
    cut = augment(images, drawn(), cutout=4)
    black = (cut == 0).all(1).flatten(1).sum(1)
    assert 4 <= int(black.min()) <= int(black.max()) == 16
    assert torch.equal(cut[cut > 0], images[cut > 0])


def test_mixup_blends_images_and_labels_in_the_same_shares() -> None:
    flat = torch.tensor([0, 50, 100, 250], dtype=torch.uint8)
    images = flat.view(4, 1, 1, 1).expand(4, 3, 8, 8).contiguous()
    blended, shares = mixup(images, torch.arange(4), 5, 1.0, drawn())
    assert blended.dtype == torch.uint8 and blended.shape == images.shape
    assert torch.equal(shares.sum(1), torch.ones(4)) and not shares[:, 4].any()
    assert 0 < int((shares > 0).sum(1).max()) <= 2
    expected = shares[:, :4] @ flat.float()
    assert torch.allclose(blended.flatten(1).float(), expected[:, None], atol=0.51)
    again = mixup(images, torch.arange(4), 5, 1.0, drawn())
    assert torch.equal(again[0], blended) and torch.equal(again[1], shares)


def test_a_reflected_border_mirrors_the_image() -> None:
    image = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    expected = torch.nn.functional.pad(image.float(), (2,) * 4, mode="reflect").byte()[0]
    windows = {
        tuple(expected[:, top : top + 4, left : left + 4].flatten().tolist())
        for top in range(5)
        for left in range(5)
    }
    cut = augment(image.expand(200, 3, 4, 4), drawn(), crop=2, border="reflect")
    assert {tuple(item.flatten().tolist()) for item in cut} == windows


def test_alternating_flips_show_every_image_both_ways() -> None:
    indices = torch.randperm(1000)[:300]
    first, second, third = (alternating(indices, 7, epoch, 1000) for epoch in range(3))
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    assert 0.35 < float(first.float().mean()) < 0.65
    images = torch.arange(12, dtype=torch.uint8).view(2, 1, 2, 3)
    flipped = augment(images, drawn(), flip=torch.tensor([True, False]))
    assert torch.equal(flipped[0], images[0].flip(2))
    assert torch.equal(flipped[1], images[1])
