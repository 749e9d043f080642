"""An agent of stage `ann` around a network from elsewhere: pipeline, card, refusals."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from snn_rl.agents.exchange.imported import (
    IMPORTED,
    Origin,
    check_conditions,
    grey_difference,
    image_pipeline,
    imported_agent,
    vector_pipeline,
)
from snn_rl.conversion.tracing import trace
from snn_rl.envs import check_spaces
from snn_rl.errors import SnnRlError

CARTPOLE = check_spaces("CartPole-v1")


def mlp(actions: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, actions))


@pytest.mark.parametrize("scale", [None, (1.0, 2.0, 0.5, 3.0)])
def test_it_sees_what_it_saw_at_home(scale: tuple[float, ...] | None, tmp_path: Path) -> None:
    module = mlp()
    (tmp_path / "model.zip").write_bytes(b"weights")
    origin = Origin("a test", tmp_path / "model.zip", differences=("none",))
    network = trace(module, (4,), pixels=False)
    agent = imported_agent(network, CARTPOLE, vector_pipeline(CARTPOLE, scale), origin)
    seen = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    scaled = torch.from_numpy(seen) * torch.tensor(scale or (1.0,) * 4)
    expected = module(scaled).detach().numpy()
    np.testing.assert_allclose(agent.q_values(seen), expected, atol=1e-6)
    assert agent.card["stage"] == "ann"
    assert agent.card[IMPORTED] == {
        "source": "a test",
        "file": "model.zip",
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "differences": ["none"],
    }


def test_what_does_not_fit_the_environment_is_refused() -> None:
    network = trace(mlp(3), (4,), pixels=False)
    with pytest.raises(SnnRlError, match="gives 3 values; CartPole-v1 has 2 actions"):
        imported_agent(network, CARTPOLE, vector_pipeline(CARTPOLE, None), Origin("a test"))
    for scale in ((1.0, 2.0), (1.0, 2.0, 3.0, float("nan"))):
        with pytest.raises(SnnRlError, match="scale needs 4 finite factors"):
            vector_pipeline(CARTPOLE, scale)
    with pytest.raises(SnnRlError, match="no Atari game"):
        check_conditions(CARTPOLE, True, False)
    check_conditions(CARTPOLE, False, False)


def test_the_difference_of_grey_levels_is_measured() -> None:
    pong = check_spaces("PongNoFrameskip-v4")
    assert image_pipeline(pong).frame_shape == (1, 84, 84)
    said = grey_difference(pong, frames=8)
    assert "of the pixels differ" in said and "8 frames" in said
    check_conditions(pong, True, True)
