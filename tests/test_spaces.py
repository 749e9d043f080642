"""Which environments are supported, and how the others are refused."""

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
    ],
)
def test_refusals_are_one_clear_sentence(env_id: str, message: str) -> None:
    for refuse in (check_spaces, lambda env_id: make_vector(env_id, 1, seed=0)):
        with pytest.raises(UnsupportedEnvironment, match=message) as caught:
            refuse(env_id)
        assert "\n" not in str(caught.value)
