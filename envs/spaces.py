"""Which environments an agent can use, and clear refusals of the others."""

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from snn_rl.envs.games import ALE_ENTRY_POINT, UnsupportedEnvironment, atari_game, split_id


@dataclass(frozen=True)
class EnvironmentSpec:
    """What an agent needs to know about an environment.

    Attributes:
        env_id: Gymnasium id.
        observation_shape: ``(features,)`` or ``(height, width[, channels])``.
        observation_dtype: NumPy name, such as ``"float32"`` or ``"uint8"``.
        num_actions: actions are 0 … num_actions - 1.
        kind: ``"vector"`` (1-D float) or ``"image"`` (2-D or 3-D uint8).
        grey: formula that turns its colours grey, OpenCV's or that of ALE's palettes.
    """

    env_id: str
    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_actions: int
    kind: Literal["vector", "image"]
    grey: Literal["cv2", "ale"] = "cv2"


def check_spaces(env_id: str) -> EnvironmentSpec:
    """Describe an environment, or refuse it.

    Raises:
        UnsupportedEnvironment: the id is unknown, the environment cannot be created, or its
            spaces are unsupported; the message is one sentence.
    """
    env = make_single(env_id)
    try:
        return describe(env_id, env)
    finally:
        env.close()


def make_single(env_id: str) -> gym.Env[Any, Any]:
    """Create one environment without Gymnasium's passive checker.

    An Atari game skips as many frames per step as in ``make_vector``.

    Raises:
        UnsupportedEnvironment: the id is unknown, or the environment cannot be created.
    """
    game = atari_game(env_id)
    options = {"frameskip": game.frame_skip} if game else {}
    try:
        return gym.make(split_id(env_id)[1], disable_env_checker=True, **options)
    except (gym.error.Error, ImportError) as error:
        raise UnsupportedEnvironment(f"{env_id!r} cannot be created: {_text(error)}") from error


def describe(env_id: str, env: gym.Env[Any, Any]) -> EnvironmentSpec:
    """Describe an environment from its spaces.

    Raises:
        UnsupportedEnvironment: its spaces are unsupported.
    """
    actions, seen = env.action_space, env.observation_space
    if not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
        raise UnsupportedEnvironment(
            f"{env_id!r} has the action space {_text(actions)}, "
            "but only Discrete actions counted from 0 are supported."
        )
    kind = _kind(seen)
    if kind is None or seen.shape is None or seen.dtype is None:
        raise UnsupportedEnvironment(
            f"{env_id!r} has the observation space {_text(seen)}, "
            "but only 1-D float boxes and 2-D or 3-D uint8 boxes are supported."
        )
    grey: Literal["cv2", "ale"] = "ale" if _is_ale(env) else "cv2"
    return EnvironmentSpec(
        env_id=env_id,
        observation_shape=seen.shape,
        observation_dtype=seen.dtype.name,
        num_actions=int(actions.n),
        kind=kind,
        grey=grey,
    )


def _kind(space: gym.Space[Any]) -> Literal["vector", "image"] | None:
    if not isinstance(space, gym.spaces.Box):
        return None
    if len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return "vector"
    if len(space.shape) in (2, 3) and space.dtype == np.uint8:
        return "image"
    return None


def _is_ale(env: gym.Env[Any, Any]) -> bool:
    return env.spec is not None and env.spec.entry_point == ALE_ENTRY_POINT


def _text(thing: object) -> str:
    return " ".join(str(thing).split())
