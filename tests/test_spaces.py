"""Which environments are supported, and how the others are refused."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from snn_rl.envs import UnsupportedEnvironment, check_spaces, make_vector


def test_supported_spaces() -> None:
    spec = check_spaces("PositionOnlyCartPole-v1")
    assert (spec.observation_shape, spec.observation_dtype) == ((2,), "float32")
    assert (spec.num_actions, spec.kind) == (2, "vector")
    spec = check_spaces("PixelCartPole-v1")
    assert (spec.observation_shape, spec.observation_dtype) == ((84, 84), "uint8")
    assert (spec.num_actions, spec.kind) == (2, "image")
    assert check_spaces("snn_rl.envs:PixelCartPole-v1").kind == "image"
    spec = check_spaces("ALE/Pong-v5")
    assert (spec.observation_shape, spec.num_actions, spec.kind) == ((210, 160, 3), 6, "image")


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPol-v1", r"'CartPol-v1': did you mean 'CartPole-v1'\?"),
        ("PongNoFrameskp-v4", r"did you mean 'PongNoFrameskip-v4'\?"),
        ("qqqqqqqq", "import the package that registers it"),
        ("no_such_module:Thing-v0", "--import no_such_module"),
        ("Pendulum-v1", "'Pendulum-v1' has the action space Box.*only Discrete actions"),
        ("FrozenLake-v1", r"'FrozenLake-v1' has the observation space Discrete\(16\), but only"),
        ("Blackjack-v1", "has the observation space Tuple.*1-D float boxes and 2-D or 3-D uint8"),
    ],
)
def test_refusals_are_one_clear_sentence(env_id: str, message: str) -> None:
    for refuse in (check_spaces, lambda env_id: make_vector(env_id, 1, seed=0)):
        with pytest.raises(UnsupportedEnvironment, match=message) as caught:
            refuse(env_id)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (gym.spaces.Box(0, 1, (4, 4), np.float32), gym.spaces.Discrete(2)),
        (gym.spaces.Box(0, 255, (128,), np.uint8), gym.spaces.Discrete(2)),
        (gym.spaces.Dict({"a": gym.spaces.Discrete(2)}), gym.spaces.Discrete(2)),
        (gym.spaces.Box(0, 1, (4,), np.float32), gym.spaces.Discrete(2, start=1)),
        (gym.spaces.Box(0, 1, (4,), np.float32), gym.spaces.MultiDiscrete([2, 2])),
    ],
)
def test_other_spaces_are_refused(observations: gym.Space, actions: gym.Space) -> None:
    class Odd(gym.Env[Any, Any]):
        observation_space = observations
        action_space = actions

    gym.register("Odd-v0", entry_point=Odd)
    try:
        with pytest.raises(UnsupportedEnvironment, match=r"'Odd-v0' has the .* but only"):
            check_spaces("Odd-v0")
    finally:
        del gym.registry["Odd-v0"]
