"""Which environments an agent can use, and clear refusals of the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym

from snn_rl.envs.games import (
    ALE_ENTRY_POINT,
    UnsupportedEnvironment,
    atari_game,
    reason_of,
    split_id,
)
from snn_rl.envs.shown import Kind, Shown


@dataclass(frozen=True)
class EnvironmentSpec:
    """What an agent needs to know about an environment.

    Attributes:
        env_id: Gymnasium id.
        observation_shape: ``(features,)``, ``(height, width[, channels])``, or of planes
            ``(channels, height, width)``.
        observation_dtype: NumPy name, such as ``"float32"`` or ``"uint8"``.
        num_actions: actions are 0 … num_actions - 1.
        kind: ``"vector"`` (float32), ``"image"`` or ``"planes"`` (uint8), as in
            ``snn_rl.envs.shown``.
        grey: formula that turns its colours grey, OpenCV's or that of ALE's palettes.
    """

    env_id: str
    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_actions: int
    kind: Kind
    grey: Literal["cv2", "ale"] = "cv2"


def check_spaces(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> EnvironmentSpec:
    """Describe an environment, or refuse it.

    Raises:
        UnsupportedEnvironment: the id is unknown, the environment cannot be created, or its
            spaces are unsupported; the message is one sentence.
    """
    env = make_single(env_id, env_kwargs)
    try:
        return describe(env_id, env)
    finally:
        env.close()


def make_single(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> Shown:
    """Create one environment as agents see it, without Gymnasium's passive checker.

    An Atari game skips as many frames per step as in ``make_vector``.

    Args:
        env_kwargs: for its constructor.

    Raises:
        UnsupportedEnvironment: the id is unknown, the environment cannot be created, or its
            spaces are unsupported.
    """
    game = atari_game(env_id)
    options = {**(env_kwargs or {}), **({"frameskip": game.frame_skip} if game else {})}
    try:
        env = gym.make(split_id(env_id)[1], disable_env_checker=True, **options)
    except (Exception, SystemExit) as error:  # a constructor may do anything
        raise UnsupportedEnvironment(f"{env_id!r} cannot be created: {reason_of(error)}") from error
    return Shown(env_id, env)


def describe(env_id: str, env: Shown) -> EnvironmentSpec:
    """Describe an environment from its spaces."""
    seen, actions = env.observation_space, env.action_space
    assert isinstance(seen, gym.spaces.Box) and isinstance(actions, gym.spaces.Discrete)
    grey: Literal["cv2", "ale"] = "ale" if _is_ale(env) else "cv2"
    return EnvironmentSpec(
        env_id=env_id,
        observation_shape=seen.shape,
        observation_dtype=str(seen.dtype),
        num_actions=int(actions.n),
        kind=env.kind,
        grey=grey,
    )


def _is_ale(env: gym.Env[Any, Any]) -> bool:
    return env.spec is not None and env.spec.entry_point == ALE_ENTRY_POINT
