"""DQN agents from Stable-Baselines3: they act as at home, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from runtimes import runtime_or_skip
from torch import nn

import snn_rl
from snn_rl.agents.exchange.sb3 import from_sb3
from snn_rl.errors import SnnRlError

sb3 = runtime_or_skip("stable_baselines3")
PONG = "PongNoFrameskip-v4"


class Shown(gym.Env[Any, Any]):
    """Observations and actions of given spaces, nothing else."""

    def __init__(self, seen: Any, actions: Any = None) -> None:
        self.observation_space = seen
        self.action_space = actions or gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


def vectors(features: int) -> Any:
    return gym.spaces.Box(-np.inf, np.inf, (features,), np.float32)


def images(*shape: int) -> Any:
    return gym.spaces.Box(0, 255, shape, np.uint8)


def saved(path: Path, env: Any = "CartPole-v1", policy: Any = "MlpPolicy", **kwargs: Any) -> Any:
    kwargs = {"buffer_size": 10, "seed": 3} | kwargs
    model = sb3.DQN(policy, env, device="cpu", **kwargs)
    with torch.no_grad():  # as if trained: the target network is another one
        for value in model.policy.q_net.parameters():
            value.add_(0.01)
    model.save(path)
    return model


def theirs(model: Any, observations: Any) -> Any:
    with torch.no_grad():
        return model.policy.q_net(torch.from_numpy(observations)).numpy()


@pytest.mark.parametrize("net_arch", [None, [32], [24, 16, 8]])
def test_an_mlp_gives_its_own_q_values(net_arch: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    kwargs = {} if net_arch is None else {"net_arch": net_arch, "activation_fn": nn.ReLU}
    model = saved(path, policy_kwargs=kwargs)
    agent = snn_rl.from_sb3(path, "CartPole-v1")
    seen = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.testing.assert_allclose(agent.q_values(seen), theirs(model, seen), atol=1e-6)
    assert agent.card["imported"]["source"] == f"Stable-Baselines3 {sb3.__version__} DQN"
    assert agent.card["imported"]["differences"] == []


def test_saving_costs_nothing(tmp_path: Path) -> None:
    saved(tmp_path / "model.zip")
    agent = from_sb3(tmp_path / "model.zip", "CartPole-v1")
    agent.save(tmp_path / "agent")
    again = snn_rl.load_agent(tmp_path / "agent")
    seen = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.testing.assert_array_equal(again.q_values(seen), agent.q_values(seen))
    assert again.card["grid"] == {} and again.imported


def test_stacked_vectors_are_seen_oldest_first(tmp_path: Path) -> None:
    model = saved(tmp_path / "model.zip", Shown(vectors(12)))
    agent = from_sb3(tmp_path / "model.zip", "CartPole-v1")
    seen = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    found = [agent.q_values(frame) for frame in seen]
    stacks = [np.concatenate([np.zeros((2, 4), np.float32), seen])[n : n + 3] for n in range(3)]
    expected = theirs(model, np.stack([stack.reshape(-1) for stack in stacks]))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_normalisation_by_numbers_is_folded(tmp_path: Path) -> None:
    model = saved(tmp_path / "model.zip")
    (tmp_path / "vec_normalize.pkl").write_bytes(b"\x80")
    with pytest.raises(SnnRlError, match=r"VecNormalize.*--mean"):
        from_sb3(tmp_path / "model.zip", "CartPole-v1")
    mean, std = np.array([0.1, -2, 0.5, 0]), np.array([0.5, 2, 0.1, 3])
    agent = from_sb3(tmp_path / "model.zip", "CartPole-v1", mean=mean.tolist(), std=std.tolist())
    seen = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    expected = theirs(model, ((seen - mean) / std).astype(np.float32))
    np.testing.assert_allclose(agent.q_values(seen), expected, atol=2e-6)
    assert "clips" in agent.card["imported"]["differences"][0]
    for numbers in ({"mean": [0.0] * 4}, {"mean": [0.0] * 3, "std": [1.0] * 3}):
        with pytest.raises(SnnRlError, match="mean and std"):
            from_sb3(tmp_path / "model.zip", "CartPole-v1", **numbers)
    with pytest.raises(SnnRlError, match="std above 0"):
        from_sb3(tmp_path / "model.zip", "CartPole-v1", mean=[0.0] * 4, std=[0.0] * 4)


@pytest.mark.parametrize("shape", [(84, 84, 4), (4, 84, 84)])
@pytest.mark.parametrize("options", [{}, {"normalize_images": False, "net_arch": [32]}])
def test_a_nature_cnn_gives_its_own_q_values(
    shape: tuple[int, ...], options: dict[str, Any], tmp_path: Path
) -> None:
    env = Shown(images(*shape), gym.spaces.Discrete(6))
    model = saved(tmp_path / "model.zip", env, "CnnPolicy", policy_kwargs=options)
    agent = from_sb3(tmp_path / "model.zip", PONG)
    frames = np.random.default_rng(0).integers(0, 256, (5, 1, 84, 84), np.uint8)
    found = [agent.q_values(frame) for frame in frames][-1]
    np.testing.assert_allclose(found, theirs(model, frames[1:, 0][None])[0], rtol=1e-4, atol=1e-4)
    assert agent.maxpool and agent.fire_reset
    assert any("pixels differ" in said for said in agent.card["imported"]["differences"])
    other = from_sb3(tmp_path / "model.zip", PONG, maxpool=False, fire_reset=False)
    assert not other.maxpool and not other.fire_reset


class Own(sb3.common.torch_layers.FlattenExtractor):
    """Somebody's features extractor."""


class OwnPolicy(sb3.dqn.policies.DQNPolicy):
    """Somebody's policy."""


@pytest.mark.parametrize(
    ("policy", "kwargs", "message"),
    [
        ("MlpPolicy", {"activation_fn": nn.Tanh}, "Tanh activations"),
        ("MlpPolicy", {"features_extractor_class": Own}, "extractor of its own"),
        (OwnPolicy, {}, "no DQN with Stable-Baselines3's own policy"),
    ],
)
def test_other_policies_are_refused(
    policy: Any, kwargs: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path / "model.zip", policy=policy, policy_kwargs=kwargs)
    with pytest.raises(SnnRlError, match=message):
        from_sb3(tmp_path / "model.zip", "CartPole-v1")


def test_other_algorithms_are_refused(tmp_path: Path) -> None:
    sb3.PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "ppo.zip")
    with pytest.raises(SnnRlError, match="no DQN"):
        from_sb3(tmp_path / "ppo.zip", "CartPole-v1")
    continuous = Shown(vectors(3), gym.spaces.Box(-1, 1, (1,), np.float32))
    sb3.SAC("MlpPolicy", continuous, buffer_size=10, device="cpu").save(tmp_path / "sac.zip")
    with pytest.raises(SnnRlError, match="action space Box"):
        from_sb3(tmp_path / "sac.zip", "CartPole-v1")


@pytest.mark.parametrize(
    ("seen", "policy", "env", "message"),
    [
        (vectors(3), "MlpPolicy", "CartPole-v1", "shows 4 numbers"),
        (images(4, 84, 84), "CnnPolicy", "CartPole-v1", "shows 4 numbers"),
        (vectors(4), "MlpPolicy", PONG, "shows uint8 images"),
        (images(4, 64, 64), "CnnPolicy", PONG, "84 x 84"),
        (vectors(4), "MlpPolicy", "Acrobot-v1", "shows 6 numbers"),
    ],
)
def test_what_the_environment_does_not_show_is_refused(
    seen: Any, policy: str, env: str, message: str, tmp_path: Path
) -> None:
    saved(tmp_path / "model.zip", Shown(seen), policy)
    with pytest.raises(SnnRlError, match=message):
        from_sb3(tmp_path / "model.zip", env)


def test_damaged_data_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "model.zip")
    for content in (b"{", b"[]", b"[" * 100_000, json.dumps({"policy_class": 1}).encode()):
        with (
            zipfile.ZipFile(tmp_path / "model.zip") as source,
            zipfile.ZipFile(tmp_path / "bad.zip", "w") as target,
        ):
            for name in source.namelist():
                target.writestr(name, content if name == "data" else source.read(name))
        with pytest.raises(SnnRlError, match="damaged or from another library"):
            from_sb3(tmp_path / "bad.zip", "CartPole-v1")


@pytest.mark.parametrize("left", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_zip_is_refused_in_one_sentence(
    left: float, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    saved(tmp_path / "model.zip")
    content = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: int(left * len(content))])
    status, out, err = call("import", "cut.zip", "--env", "CartPole-v1", "--out", "agent")
    assert (status, out) == (2, "")
    assert err.startswith("error: cut.zip ") and err.count("\n") == 1
    assert "is damaged" in err or "is cut off" in err
    assert not (tmp_path / "agent").exists()


def test_a_flipped_bit_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    saved(tmp_path / "model.zip", policy_kwargs={"net_arch": [8]})
    whole, bad = (tmp_path / "model.zip").read_bytes(), tmp_path / "bad.zip"
    seen = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    expected = from_sb3(tmp_path / "model.zip", "CartPole-v1").q_values(seen)
    refused, positions = 0, np.linspace(0, len(whole) - 1, 60).astype(int)
    for position in positions:
        content = bytearray(whole)
        content[position] ^= 16
        bad.write_bytes(content)
        try:
            found = from_sb3(bad, "CartPole-v1")
        except SnnRlError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(found.q_values(seen), expected)
    assert refused > len(positions) / 2


def test_the_command(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    saved(tmp_path / "model.zip")
    arguments = ("import", "model.zip", "--env", "CartPole-v1", "--out", "agent")
    status, out, err = call(*arguments)
    assert (status, out) == (0, "agent\n"), err
    assert snn_rl.load_agent(tmp_path / "agent").imported
    assert "snn-rl train --env CartPole-v1 --from agent" in err
    status, _, err = call(*arguments)
    assert status == 2 and "not empty" in err
    shutil.rmtree(tmp_path / "agent")
    status, _, err = call(*arguments, "--mean", "1,2,x", "--std", "1")
    assert status == 2 and "--mean '1,2,x' must be numbers" in err
    assert not (tmp_path / "agent").exists()
