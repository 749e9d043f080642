"""Torch Q-networks from elsewhere, in Python and as saved weights beside their code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snn_rl
from snn_rl.agents.exchange.torch_modules import from_torch, from_weights
from snn_rl.errors import SnnRlError

PONG = "PongNoFrameskip-v4"
CODE = """
import numpy as np
import torch.nn as nn

class QNetwork(nn.Module):  # as in CleanRL's dqn.py
    def __init__(self, env):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(np.array(env.single_observation_space.shape).prod(), 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, env.single_action_space.n),
        )

    def forward(self, x):
        return self.network(x)

class Images(nn.Module):  # as in CleanRL's dqn_atari.py
    def __init__(self, env):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(4, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3136, 512),
            nn.ReLU(),
            nn.Linear(512, env.single_action_space.n),
        )

    def forward(self, x):
        return self.network(x / 255.0)

def plain():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

def shaped(shape, actions):
    return nn.Sequential(nn.Linear(shape[0], 8), nn.ReLU(), nn.Linear(8, actions))

def many(a, b, c):
    return plain()

def nothing():
    return 3

CONSTANT = 1
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module `theirs` in the working directory."""
    (tmp_path / "theirs.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(CODE, names)
    yield names
    sys.modules.pop("theirs", None)


class Spaces:
    class single_observation_space:
        shape = (4,)

    class single_action_space:
        n = 2


def seen(features: int = 4) -> Any:
    return np.random.default_rng(0).normal(size=(50, features)).astype(np.float32)


def values(module: nn.Module, observations: Any) -> Any:
    with torch.no_grad():
        return module(torch.from_numpy(observations).float()).numpy()


def test_saved_weights_find_their_code(code: Any, tmp_path: Path) -> None:
    module = code["QNetwork"](Spaces)
    torch.save(module.state_dict(), "weights.pth")
    agent = from_weights("weights.pth", "theirs:QNetwork", "CartPole-v1")
    np.testing.assert_allclose(agent.q_values(seen()), values(module, seen()), atol=1e-6)
    assert agent.card["imported"]["file"] == "weights.pth"
    agent.save("saved")  # CleanRL's sizes are NumPy's, which JSON does not know
    np.testing.assert_array_equal(
        snn_rl.load_agent("saved").q_values(seen()), agent.q_values(seen())
    )
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("factory", ["plain", "shaped"])
def test_factories_take_what_they_need(code: Any, factory: str) -> None:
    module = code["plain"]()
    torch.save(module.state_dict(), "weights.pth")
    agent = from_weights("weights.pth", f"theirs:{factory}", "CartPole-v1", scale=[1, 2, 3, 4])
    scaled = seen() * np.array([1, 2, 3, 4], np.float32)
    np.testing.assert_allclose(agent.q_values(seen()), values(module, scaled), atol=1e-6)


def test_images_are_stacked(code: Any) -> None:
    class Six:
        class single_action_space:
            n = 6

    module = code["Images"](Six)
    torch.save(module.state_dict(), "weights.pth")
    agent = from_weights("weights.pth", "theirs:Images", PONG, stack=4, maxpool=True)
    frames = np.random.default_rng(0).integers(0, 256, (5, 1, 84, 84), np.uint8)
    found = [agent.q_values(frame) for frame in frames][-1]
    np.testing.assert_allclose(found, values(module, frames[1:, 0][None])[0], atol=1e-5)
    assert agent.maxpool


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("theirs", "must be module:factory"),
        ("nowhere:QNetwork", "cannot be found"),
        ("theirs:Other", "cannot be found"),
        ("theirs:CONSTANT", "no class or function"),
        ("theirs:many", "takes 3 arguments"),
        ("theirs:nothing", "returns int"),
        ("theirs:QNetwork", "does not fit theirs:QNetwork: Missing key"),
    ],
)
def test_what_does_not_fit_is_named(code: Any, network: str, message: str) -> None:
    torch.save(code["plain"]().state_dict(), "weights.pth")
    with pytest.raises(SnnRlError, match=message):
        from_weights("weights.pth", network, "CartPole-v1")


def test_files_that_are_no_weights_are_refused(code: Any, tmp_path: Path) -> None:
    with pytest.raises(SnnRlError, match="there is no file"):
        from_weights("none.pth", "theirs:plain", "CartPole-v1")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(SnnRlError, match="empty"):
        from_weights("empty.pth", "theirs:plain", "CartPole-v1")
    torch.save(code["plain"](), "whole.pth")
    with pytest.raises(SnnRlError, match=r"save module.state_dict\(\) alone"):
        from_weights("whole.pth", "theirs:plain", "CartPole-v1")


class Changing(nn.Module):
    """Computes something else for other batches."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.small(x) if len(x.shape) == 2 and x.shape[0] < 8 else self.large(x)
        return result


def test_modules_in_python(code: Any) -> None:
    module = code["plain"]()
    agent = snn_rl.from_torch(module, "CartPole-v1")
    np.testing.assert_allclose(agent.q_values(seen()), values(module, seen()), atol=1e-6)
    assert module.training, "the module itself is left alone"
    with pytest.raises(SnnRlError, match="stack must be"):
        from_torch(module, "CartPole-v1", stack=0)
    with pytest.raises(SnnRlError, match="shows images"):
        from_torch(module, PONG, scale=[1])
    with pytest.raises(SnnRlError, match="other values than its traced layers"):
        from_torch(Changing(), "CartPole-v1")
    with pytest.raises(SnnRlError, match="8 values"):
        from_torch(nn.Sequential(nn.Linear(4, 8)), "CartPole-v1")


def test_the_command(code: Any, call: Callable[..., tuple[int, str, str]]) -> None:
    torch.save(code["plain"]().state_dict(), "weights.pth")
    arguments = ("import", "weights.pth", "--env", "CartPole-v1", "--out", "agent")
    network = ("--network", "theirs:plain")
    status, out, err = call(*arguments, *network, "--scale", "1,1,2,2")
    assert (status, out) == (0, "agent\n"), err
    assert snn_rl.load_agent("agent").pipeline.scale == (1, 1, 2, 2)
    other = (*arguments[:-1], "other")
    for given, message in (
        (("--scale", "1,1,2,2"), "need --network"),
        ((*network, "--mean", "0,0,0,0"), "leave them out with --network"),
    ):
        status, _, err = call(*other, *given)
        assert status == 2 and message in err
