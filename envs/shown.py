"""What an agent is shown of any Gymnasium environment, and what it may do in it.

Every environment becomes one of three kinds: a vector of float32 numbers, an image of uint8 pixels
[height, width(, channels)], or planes of uint8 pixels [channels, height, width], which are small or
of many channels and stay as they are. Actions count from 0. Whatever fails names the environment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.spaces import utils
from numpy.typing import NDArray

from snn_rl.envs.games import UnsupportedEnvironment, reason_of

log = logging.getLogger(__name__)
FULL_STATE = "full_state"
"""Where ``info`` may hold what a teacher sees: numbers of one shape, in every step or in none."""
SMALLEST = 36
"""Images of fewer pixels at an edge are planes."""
LEVELS = 255
Kind = Literal["vector", "image", "planes"]
Convert = Callable[[Any], NDArray[Any]]


class EnvironmentFailure(RuntimeError):
    """An environment raised an error of its own; the message names it and its step."""


class Shown(gym.Wrapper[NDArray[Any], int, Any, Any]):
    """An environment as an agent sees it, each of whose answers is checked.

    Attributes:
        kind: of its observations.

    Raises:
        UnsupportedEnvironment: its spaces are unsupported, or an answer is none that Gymnasium
            allows.
        EnvironmentFailure: it raised an error, or ended the process.
    """

    def __init__(self, env_id: str, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.env_id, self.steps = env_id, 0
        seen, actions = (_space(env_id, env, name) for name in ("observation", "action"))
        self.kind, self.observation_space, self._convert = _view(env_id, seen)
        self.action_space, self._first = _actions(env_id, actions)
        self._state_shape: tuple[int, ...] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode."""
        self.steps = 0
        answer = self._ask(lambda: self.env.reset(seed=seed, options=options))
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
            raise self._odd("an observation and a mapping from reset()", answer)
        return self._shown(answer[0]), self._told(answer[1])

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take an action, counted from 0."""
        self.steps += 1
        answer = self._ask(lambda: self.env.step(self._first + action if self._first else action))
        if not (isinstance(answer, tuple) and len(answer) == 5 and isinstance(answer[4], dict)):
            raise self._odd("five values, the last one a mapping, from step()", answer)
        observation, reward, terminated, truncated, info = answer
        try:
            reward = float(reward)
        except (TypeError, ValueError):
            raise self._odd("a number as the reward", reward) from None
        if not np.isfinite(reward):
            raise self._odd("a finite number as the reward", reward)
        ends = self._flag("terminated", terminated), self._flag("truncated", truncated)
        return self._shown(observation), reward, *ends, self._told(info)

    def close(self) -> None:
        """Free what it holds; a failure of that is told and costs nothing."""
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            log.warning("%s failed in close(): %s", self.env_id, reason_of(error))

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (Exception, SystemExit) as error:  # a simulator can die in any way
            raise EnvironmentFailure(
                f"{self.env_id} failed in {self._where()}: {reason_of(error)}"
            ) from error

    def _flag(self, name: str, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biu":
            raise self._odd(f"true or false for {name}", value)
        return bool(array.item())

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        if info.get(FULL_STATE) is not None:
            state = np.asarray(info[FULL_STATE])
            self._state_shape = self._state_shape or state.shape
            if state.shape != self._state_shape or not _finite(state):
                raise self._odd(
                    f"finite numbers of shape {self._state_shape} for info[{FULL_STATE!r}]", state
                )
        return info

    def _shown(self, observation: Any) -> NDArray[Any]:
        try:
            shown = self._convert(observation)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
            raise self._odd(
                f"an observation of {self.env.observation_space}", observation
            ) from None
        if shown.shape != self.observation_space.shape:
            raise self._odd(f"an observation of {self.env.observation_space}", observation)
        if not _finite(shown):
            raise self._odd("an observation of finite numbers", observation)
        return shown

    def _where(self) -> str:
        return f"step {self.steps} of an episode" if self.steps else "reset()"

    def _odd(self, wanted: str, got: Any) -> UnsupportedEnvironment:
        told = f"{got.dtype} {got.shape}" if isinstance(got, np.ndarray) else f"{got!r:.80}"
        told = " ".join(told.split())
        return UnsupportedEnvironment(
            f"{self.env_id} returned {told} in {self._where()}, where Gymnasium has "
            f"{' '.join(wanted.split())}"
        )


def _finite(array: NDArray[Any]) -> bool:
    kind = array.dtype.kind
    return kind in "biu" or (kind == "f" and bool(np.isfinite(array).all()))


def _numbers(observation: Any) -> NDArray[np.float32]:
    array = np.asarray(observation)
    if array.dtype.kind not in "biuf":
        raise TypeError
    with np.errstate(over="ignore"):  # told as infinite
        return array.astype(np.float32)


def _space(env_id: str, env: gym.Env[Any, Any], name: str) -> gym.Space[Any]:
    try:
        space = getattr(env, f"{name}_space")
    except Exception as error:
        raise UnsupportedEnvironment(
            f"{env_id!r} has no {name} space: {reason_of(error)}"
        ) from error
    if not isinstance(space, gym.Space):
        raise UnsupportedEnvironment(f"{env_id!r} has {space!r:.80} where its {name} space belongs")
    return space


def _actions(env_id: str, space: gym.Space[Any]) -> tuple[spaces.Discrete[Any], int]:
    """The actions counted from 0, and the number of the first one."""
    if not isinstance(space, spaces.Discrete):
        raise UnsupportedEnvironment(
            f"{env_id!r} has the action space {' '.join(str(space).split())}, but only Discrete "
            "actions are supported: list the combinations that make sense and wrap it in "
            "gymnasium.wrappers.TransformAction"
        )
    return spaces.Discrete(int(space.n)), int(space.start)


def _view(env_id: str, space: gym.Space[Any]) -> tuple[Kind, spaces.Box, Convert]:
    """How a space is shown: its kind, the space of what is shown, and what makes it."""
    if isinstance(space, spaces.Box) and len(space.shape) in (2, 3) and _levels(space):
        return _pixels(space)
    if not space.is_np_flattenable:
        raise UnsupportedEnvironment(
            f"{env_id!r} has the observation space {' '.join(str(space).split())}, which has no "
            "fixed size: wrap it in gymnasium.wrappers.TransformObservation"
        )
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        low, high, convert = space.low, space.high, _numbers
    else:
        flat = utils.flatten_space(space)
        assert isinstance(flat, spaces.Box)
        low, high = flat.low, flat.high
        counted = isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)

        def convert(observation: Any) -> NDArray[Any]:
            if counted and not space.contains(observation):
                raise ValueError
            return _numbers(utils.flatten(space, observation))

    if not low.size:
        raise UnsupportedEnvironment(f"{env_id!r} shows observations without any number in them")
    box = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
    return "vector", box, convert


def _levels(space: spaces.Box) -> bool:
    """Whether all values lie between two bounds, as those of pixels do."""
    bounds = (float(space.low.min()), float(space.high.max()))
    return bool(np.isfinite(bounds).all()) and 0 < bounds[1] - bounds[0] <= 1e6


def _pixels(space: spaces.Box) -> tuple[Kind, spaces.Box, Convert]:
    """Pixels count from 0 to 255 between the space's bounds; bytes are taken as they are."""
    low, high = float(space.low.min()), float(space.high.max())
    shape, bytes_ = space.shape, space.dtype == np.uint8
    first = len(shape) == 3 and shape[0] < shape[2]  # channels first
    channels = 1 if len(shape) == 2 else shape[0] if first else shape[2]
    height, width = shape[1:] if first else shape[:2]
    kind: Kind = "image" if channels in (1, 3) and min(height, width) >= SMALLEST else "planes"

    def grey(observation: Any) -> NDArray[Any]:
        array = np.asarray(observation)
        if array.shape != shape:
            raise ValueError
        if bytes_ and array.dtype == np.uint8:
            return array
        scaled = (array.astype(np.float32) - low) * (LEVELS / (high - low))
        if not np.isfinite(scaled).all():
            raise ValueError
        levels: NDArray[Any] = np.rint(scaled.clip(0, LEVELS)).astype(np.uint8)
        return levels

    def convert(observation: Any) -> NDArray[Any]:
        array = grey(observation)
        if kind == "image":
            return np.moveaxis(array, 0, -1) if first else array
        if len(shape) == 2:
            return array[None]
        return array if first else np.moveaxis(array, -1, 0)

    planes = (channels, height, width)
    image = shape if not first else (height, width, channels)
    return kind, spaces.Box(0, 255, planes if kind == "planes" else image, np.uint8), convert
