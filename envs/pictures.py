"""What a person sees of a game that an agent plays in `make_vector`'s environment."""

from __future__ import annotations

import re
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from snn_rl.envs.atari import AtariVector
from snn_rl.envs.games import NO_LIMIT, UnsupportedEnvironment, reason_of
from snn_rl.envs.shown import EnvironmentFailure

ALE_FRAMES_PER_SECOND = 60.0
DEFAULT_PACE = 30.0
_WORDS = re.compile("NOOP|UP|DOWN|LEFT|RIGHT|FIRE")


class Pictures(Protocol):
    """The pictures of one game, taken beside the environment that it is played in.

    Attributes:
        actions: names of the actions, in their order.
        pace: decisions per second at the game's own speed.
    """

    actions: tuple[str, ...]
    pace: float

    def begin(self, seed: int) -> NDArray[np.uint8] | None:
        """First picture, RGB [height, width, 3], of the episode that was just begun with `seed`.

        None where the environment draws nothing.

        Raises:
            UnsupportedEnvironment: a package that draws it is missing.
        """

    def follow(self, action: int) -> NDArray[np.uint8] | None:
        """The picture after the environment took `action`, like `begin`."""

    def close(self) -> None:
        """Free what was opened here."""


def pictures_of(
    vector: VectorEnv[Any, Any, Any],
    env_id: str,
    screen: tuple[int, ...],
    sticky: float | None = None,
) -> Pictures:
    """Pictures of a vector environment of one copy.

    Args:
        vector: from `make_vector`.
        env_id: what it was made from.
        screen: shape of the game's raw frame, height first; only Atari games look at it.
        sticky: what it was made with.
    """
    if isinstance(vector, AtariVector):
        sticky = vector.game.sticky if sticky is None else sticky
        return AtariPictures(vector, screen, sticky)
    return RenderedPictures(vector, env_id)


class AtariPictures:
    """The raw RGB screens of an Atari game, from a twin that takes the same seeds and actions.

    Its screens turn into the very frames of the `AtariVector` that it accompanies.
    """

    def __init__(self, vector: AtariVector, screen: tuple[int, ...], sticky: float) -> None:
        """Make the twin of an `AtariVector` without maxpool; `screen` starts with its height."""
        from ale_py.vector_env import AtariVectorEnv

        self._followed, game = vector, vector.game
        self._vector: Any = AtariVectorEnv(
            game.rom,
            1,
            num_threads=1,
            max_num_frames_per_episode=NO_LIMIT,
            repeat_action_probability=sticky,
            full_action_space=game.full_action_space,
            img_height=screen[0],
            img_width=screen[1],
            grayscale=False,
            stack_num=1,
            frameskip=game.frame_skip,
            maxpool=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self.actions = tuple(
            " ".join(_WORDS.findall(action.name)).lower()
            for action in self._vector.ale.get_action_set()
        )
        self.pace = ALE_FRAMES_PER_SECOND / game.frame_skip

    def begin(self, seed: int) -> NDArray[np.uint8]:
        """As in `Pictures`."""
        return self._screen(self._vector.reset(seed=np.array([seed], np.int64))[0])

    def follow(self, action: int) -> NDArray[np.uint8]:
        """As in `Pictures`."""
        taken = self._followed.taken(0)  # FIRE, where that is due
        return self._screen(self._vector.step(np.array([taken], np.int64))[0])

    def close(self) -> None:
        """Free the emulator."""
        self._vector = None

    def _screen(self, observation: NDArray[np.uint8]) -> NDArray[np.uint8]:
        screen: NDArray[np.uint8] = observation[0, 0]
        return screen.copy()


class RenderedPictures:
    """What an environment draws of itself in Gymnasium's mode "rgb_array"."""

    def __init__(self, vector: Any, env_id: str) -> None:
        """Make the only environment of `vector`, a `SyncVectorEnv`, draw."""
        self._env: gym.Env[Any, Any] = vector.envs[0]
        self._env_id = env_id
        plain = self._env.unwrapped
        self._draws = "rgb_array" in plain.metadata.get("render_modes", ())
        if self._draws:
            # Gymnasium takes the mode when it makes an environment, but evaluation's draw nothing.
            plain.render_mode = "rgb_array"
        self.actions = _names(plain, int(vector.single_action_space.n))
        self.pace = float(plain.metadata.get("render_fps") or DEFAULT_PACE)

    def begin(self, seed: int) -> NDArray[np.uint8] | None:
        """As in `Pictures`; the seed is not needed."""
        return self._render()

    def follow(self, action: int) -> NDArray[np.uint8] | None:
        """As in `Pictures`; the action is not needed."""
        return self._render()

    def close(self) -> None:
        """Nothing to free: the environment is the vector's."""

    def _render(self) -> NDArray[np.uint8] | None:
        if not self._draws:
            return None
        try:
            picture: Any = self._env.render()
        except (gym.error.DependencyNotInstalled, ImportError) as error:
            raise UnsupportedEnvironment(f"{self._env_id!r} cannot be drawn: {error}") from error
        except (Exception, SystemExit) as error:
            raise EnvironmentFailure(
                f"{self._env_id} failed in render(): {reason_of(error)}"
            ) from error
        fits = isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 3
        return np.ascontiguousarray(picture, np.uint8) if fits else None


def _names(env: Any, count: int) -> tuple[str, ...]:
    if isinstance(env, CartPoleEnv):
        return ("left", "right")
    meanings = getattr(env, "get_action_meanings", None)
    named = tuple(str(name).lower() for name in meanings()) if callable(meanings) else ()
    return named if len(named) == count else tuple(str(i) for i in range(count))
