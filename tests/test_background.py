"""Pixels are seen from the background's grey level, exactly and for good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network
from snn_rl.envs import check_spaces
from snn_rl.envs.observation import measure_background, pipeline_for
from snn_rl.errors import SnnRlError
from snn_rl.runs import checkpoint


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 20 * 20, 3))


def seen_from(offset: int) -> Network:
    return trace(module(), (1, 84, 84), pixels=True, stack=2, offset=offset)


def q_values(network: Network, frames: Tensor) -> Tensor:
    q, _ = network(frames, network.initial_state(frames.shape[1]))
    return q


def test_the_offset_is_taken_off_every_pixel_of_the_stack() -> None:
    frames = torch.randint(0, 256, (3, 2, 1, 84, 84), dtype=torch.uint8)
    stacked = torch.cat([torch.cat([torch.zeros_like(frames[:1]), frames[:-1]]), frames], 2)
    expected = module()(stacked.flatten(0, 1).float() - 87).view(3, 2, 3)
    torch.testing.assert_close(q_values(seen_from(87), frames), expected)


def test_it_is_saved_with_the_agent_and_stays_exact(tmp_path: Path) -> None:
    """Sums of pixels are the same in any order and precision."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(84 * 84, 3))
    checkpoint.save(tmp_path / "agent", trace(linear, (1, 84, 84), pixels=True, offset=87), 1, {})
    loaded, _ = checkpoint.load(tmp_path / "agent")
    assert loaded.offset == 87
    frames = torch.randint(0, 256, (1, 5, 1, 84, 84), dtype=torch.uint8)
    together = q_values(loaded, frames)
    alone = torch.cat([q_values(loaded, frames[:, i : i + 1]) for i in range(5)], 1)
    assert torch.equal(together, alone)
    assert torch.equal(together, q_values(loaded.double(), frames).float())


def test_only_grey_levels_are_offsets() -> None:
    with pytest.raises(SnnRlError, match="grey level from 0 to 255"):
        seen_from(256)


def test_backgrounds_of_games() -> None:
    """Pong's ground is grey (87 by ALE's formula), PixelCartPole's is measured, too."""
    for env_id, expected in (("PongNoFrameskip-v4", {87}), ("PixelCartPole-v1", {0, 255})):
        assert measure_background(env_id, pipeline_for(check_spaces(env_id))) in expected
