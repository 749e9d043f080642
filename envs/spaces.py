"""Which environments an agent can use, and clear refusals of the others."""

import contextlib
import difflib
import importlib
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec


class UnsupportedEnvironment(ValueError):
    """The environment is unknown, or its spaces are not ones an agent here can use."""


@dataclass(frozen=True)
class EnvironmentSpec:
    """What an agent needs to know about an environment.

    Attributes:
        env_id: Gymnasium id.
        observation_shape: ``(features,)`` or ``(height, width[, channels])``.
        observation_dtype: NumPy name, such as ``"float32"`` or ``"uint8"``.
        num_actions: actions are 0 … num_actions - 1.
        kind: ``"vector"`` (1-D float) or ``"image"`` (2-D or 3-D uint8).
    """

    env_id: str
    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_actions: int
    kind: Literal["vector", "image"]


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

    Raises:
        UnsupportedEnvironment: the id is unknown, or the environment cannot be created.
    """
    find_spec(env_id)
    try:
        return gym.make(env_id, disable_env_checker=True)
    except (gym.error.Error, ImportError) as error:
        raise UnsupportedEnvironment(f"{env_id!r} cannot be created: {_text(error)}") from error


def find_spec(env_id: str) -> EnvSpec:
    """Gymnasium's specification of an id, also of ``module:id``.

    Raises:
        UnsupportedEnvironment: the id is unknown.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedEnvironment(f"{env_id!r} cannot be imported: {error}") from error
    if name not in gym.registry:
        with contextlib.suppress(ImportError):
            importlib.import_module("ale_py")  # registers the Atari games
    if name in gym.registry:
        return gym.registry[name]
    near = difflib.get_close_matches(name, gym.registry, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "import the package that registers it first."
    raise UnsupportedEnvironment(f"Gymnasium knows no environment {env_id!r}: {hint}")


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
    return EnvironmentSpec(env_id, seen.shape, seen.dtype.name, int(actions.n), kind)


def _kind(space: gym.Space[Any]) -> Literal["vector", "image"] | None:
    if not isinstance(space, gym.spaces.Box):
        return None
    if len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return "vector"
    if len(space.shape) in (2, 3) and space.dtype == np.uint8:
        return "image"
    return None


def _text(thing: object) -> str:
    return " ".join(str(thing).split())
