"""CartPole tasks that hide the velocities, so that one observation is not enough to balance.

Dynamics, rewards and seeding are Gymnasium's ``CartPole-v1``: the same seed and the same
actions give the same trajectory; only what the agent sees differs.
"""

import math
from abc import abstractmethod
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray

FRAME_SIZE = 84
"""Height and width of a ``PixelCartPole`` frame, in pixels."""

VIEW_METRES = 4.8
"""Width of the track shown in a frame: ±2.4 m, the limits of an episode."""

BACKGROUND, CART, POLE = 0, 110, 255
"""Grey levels of a frame."""

FALLING = frozenset({"CartPole-v0", "CartPole-v1", "PositionOnlyCartPole-v1", "PixelCartPole-v1"})
"""Environments whose games last until their time limit unless the agent fails."""

_PIXELS_PER_METRE = FRAME_SIZE / VIEW_METRES
_CART_WIDTH, _CART_HEIGHT, _CART_TOP = 15.0, 9.0, 66.0
# Drawn 2.7 times as long as to scale: the lean of a slow pole must move pixels too.
_POLE_LENGTH, _POLE_WIDTH = 48.0, 4.0
_SHIFT = 8  # fractional bits of the polygon coordinates
_CART_SHAPE = 0.5 * _CART_WIDTH * np.array([[-1, 0], [1, 0], [1, 0], [-1, 0]]) + np.array(
    [[0, _CART_TOP], [0, _CART_TOP], [0, _CART_TOP + _CART_HEIGHT], [0, _CART_TOP + _CART_HEIGHT]]
)


class _PartialCartPole(CartPoleEnv):
    """CartPole whose observation is a function of cart position and pole angle."""

    @abstractmethod
    def _observe(self, x: float, theta: float) -> NDArray[Any]:
        """Observation for cart position ``x`` (m) and pole angle ``theta`` (rad)."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode; arguments as in ``CartPole-v1``."""
        full_state, info = super().reset(seed=seed, options=options)
        return self._hide(full_state, info)

    def step(
        self, action: int | NDArray[Any]
    ) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Push the cart left (0) or right (1) for 0.02 s."""
        full_state, reward, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        observation, info = self._hide(full_state, info)
        return observation, reward, terminated, truncated, info

    def _hide(
        self, full_state: NDArray[np.float32], info: dict[str, Any]
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        info["full_state"] = full_state
        return self._observe(float(full_state[0]), float(full_state[2])), info


class PositionOnlyCartPole(_PartialCartPole):
    """CartPole that shows positions and hides velocities.

    Observation: float32 ``(2,)``, cart position in ±4.8 m and pole angle in ±0.418 rad (the
    bounds of ``CartPole-v1``; an episode ends at half of each). Actions: 0 left, 1 right.
    ``info["full_state"]`` is float32 ``(4,)``: x (m), ẋ (m/s), θ (rad), θ̇ (rad/s).
    """

    def __init__(self, sutton_barto_reward: bool = False, render_mode: str | None = None) -> None:
        """Take the arguments of ``CartPole-v1``; ``render_mode="rgb_array"`` needs pygame."""
        super().__init__(sutton_barto_reward, render_mode)
        high = np.array([2 * self.x_threshold, 2 * self.theta_threshold_radians], np.float32)
        self.observation_space = gym.spaces.Box(-high, high, dtype=np.float32)

    def _observe(self, x: float, theta: float) -> NDArray[np.float32]:
        return np.array([x, theta], dtype=np.float32)


class PixelCartPole(_PartialCartPole):
    """CartPole seen as one grey frame, drawn from position and angle alone.

    Observation: uint8 ``(84, 84)``, levels as in ``draw_cartpole``; there is no motion in it.
    Actions and ``info["full_state"]`` as in ``PositionOnlyCartPole``.
    """

    def __init__(self, sutton_barto_reward: bool = False, render_mode: str | None = None) -> None:
        """Take the arguments of ``CartPole-v1``; ``render_mode="rgb_array"`` needs pygame."""
        super().__init__(sutton_barto_reward, render_mode)
        self.observation_space = gym.spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE), np.uint8)

    def _observe(self, x: float, theta: float) -> NDArray[np.uint8]:
        return draw_cartpole(x, theta)


def falls(env_id: str) -> bool:
    """Whether a game of the environment fails by ending before its time limit: CartPole and its
    variants, where the pole has fallen then or the cart has left the track."""
    return env_id.rpartition(":")[2] in FALLING


def draw_cartpole(x: float, theta: float) -> NDArray[np.uint8]:
    """Draw cart and pole with smooth edges, to a fraction of a pixel.

    Args:
        x: cart position in metres; ±2.4 m are the frame's edges, beyond them it is cut off.
        theta: pole angle in radians, positive to the right.

    Returns:
        uint8 ``(84, 84)``: background 0, cart 110, pole 255, blends at the edges.
    """
    frame = np.full((FRAME_SIZE, FRAME_SIZE), BACKGROUND, dtype=np.uint8)
    centre = x * _PIXELS_PER_METRE + 0.5 * (FRAME_SIZE - 1)
    _fill(frame, _CART_SHAPE + np.array([centre, 0.0]), CART)
    up = np.array([math.sin(theta), -math.cos(theta)])
    side = 0.5 * _POLE_WIDTH * np.array([-up[1], up[0]])
    foot = np.array([centre, _CART_TOP + 0.4 * _CART_HEIGHT])
    tip = foot + _POLE_LENGTH * up
    _fill(frame, np.array([foot - side, foot + side, tip + side, tip - side]), POLE)
    return frame


def _fill(frame: NDArray[np.uint8], corners: NDArray[np.float64], level: int) -> None:
    """Fill the convex polygon of ``corners`` ``(n, 2)``, in pixels, in place."""
    points = np.rint(corners * (1 << _SHIFT)).astype(np.int32)
    cv2.fillConvexPoly(frame, points, level, cv2.LINE_AA, _SHIFT)
