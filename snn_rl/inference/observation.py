"""From what an environment returns to the frame a network reads: one pipeline for all uses.

It is a part of a saved agent, and acting must not load environments: hence it stands here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from snn_rl.errors import SnnRlError

# Of red, green and blue, in 1/10000, as ALE computed its palettes' grey levels.
_ALE_WEIGHTS = np.array([2989, 5870, 1140], np.float32)
_PIXEL = np.dtype(np.uint8)

LARGEST, LARGEST_SIDE = 2**24, 4096
"""Numbers of an observation, and pixels at the edge of a frame, at most."""
LEAST = 1e-30
"""Factors of features lie between this and its inverse."""


@dataclass(frozen=True)
class ObservationPipeline:
    """Vectors become scaled float32; images become one grey uint8 frame of `side` x `side` pixels.

    Attributes:
        kind: "vector", "image", or "planes": pixels that are neither resized nor turned grey.
        raw_shape: one observation as the environment returns it: (features,), (height, width) or
            (height, width, channels) with 1 (grey) or 3 (RGB) channels; of planes, (channels,
            height, width).
        side: edge of the frame in pixels (images).
        grey: formula from RGB to grey: OpenCV's, or the one behind ALE's palettes. With "ale" the
            raw RGB frame of an Atari game gives the very frame that `AtariVector` shows, except
            in Air Raid, whose RGB colours do not determine ALE's grey levels.
        scale: factor per feature of a vector; () leaves it as it is. Networks learn slowly from
            features whose whole range is small, such as a pole's angle.
    """

    kind: Literal["vector", "image", "planes"]
    raw_shape: tuple[int, ...]
    side: int = 84
    grey: Literal["cv2", "ale"] = "cv2"
    scale: tuple[float, ...] = ()

    @cached_property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame: (features,), (channels, height, width) or (1, side, side)."""
        return (1, self.side, self.side) if self.kind == "image" else self.raw_shape

    @property
    def pixels(self) -> bool:
        """Whether frames are uint8 pixels."""
        return self.kind != "vector"

    def encode(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Frames [batch, *frame_shape] from a batch of raw observations, or of such frames.

        Raises:
            ValueError: another shape or type, or numbers that are not finite.
        """
        array = np.asarray(observations)
        if self.kind == "vector":
            if array.shape[1:] != self.raw_shape or not self._has_type(array):
                raise self._mismatch(array)
            frames = array.astype(np.float32)
            if not np.isfinite(frames).all():
                raise ValueError("the observation holds NaN or infinite numbers")
            return frames * np.asarray(self.scale, np.float32) if self.scale else frames
        if not self._has_type(array):
            raise self._mismatch(array)
        if array.shape[1:] in self._drawn:
            array = array.reshape(len(array), *self.frame_shape)
        if array.shape[1:] == self.frame_shape:
            if array.flags.carray:  # contiguous, aligned and writeable, as torch wants it
                return array
            return np.require(array, requirements=["C", "A", "W"])
        if array.shape[1:] != self.raw_shape:
            raise self._mismatch(array)
        return np.stack([self._grey(image) for image in array])[:, None]

    def is_single(self, observation: NDArray[Any]) -> bool:
        """Whether this is one observation, not a batch. Raises ValueError if it is neither."""
        array = np.asarray(observation)
        for known in self._forms if self._has_type(array) else ():
            if array.shape == known:
                return True
            if array.shape[1:] == known and len(array) > 0:
                return False
        raise self._mismatch(array)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "kind": self.kind,
            "raw_shape": list(self.raw_shape),
            "side": self.side,
            "grey": self.grey,
            "scale": list(self.scale),
        }

    @cached_property
    def _drawn(self) -> tuple[tuple[int, ...], ...]:
        """Other forms of an image's frame: as Gymnasium's AtariPreprocessing gives it."""
        side = self.side
        return ((side, side), (side, side, 1)) if self.kind == "image" else ()

    @cached_property
    def _forms(self) -> tuple[tuple[int, ...], ...]:
        """Shapes that one observation may have."""
        return (self.raw_shape, self.frame_shape, *self._drawn)

    def _grey(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        grey: NDArray[Any] = image
        if image.ndim == 3:
            grey = image[..., 0] if image.shape[2] == 1 else self._from_rgb(image)
        if grey.shape != (self.side, self.side):
            import cv2  # takes a while, and frames do without

            grey = cv2.resize(grey, (self.side, self.side), interpolation=cv2.INTER_AREA)
        return grey

    def _from_rgb(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        if self.grey == "cv2":
            import cv2

            return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        weighted = image.astype(np.float32) @ _ALE_WEIGHTS  # exact: whole numbers below 2**24
        return ((weighted.astype(np.int32) + 5000) // 10000).astype(np.uint8)

    def _has_type(self, array: NDArray[Any]) -> bool:
        return array.dtype == _PIXEL if self.pixels else array.dtype.kind in "fiu"

    def _mismatch(self, array: NDArray[Any]) -> ValueError:
        dtype = "float" if self.kind == "vector" else "uint8"
        wanted = f"{self.raw_shape} {dtype}"
        if self.frame_shape != self.raw_shape:
            wanted += f" or {self.frame_shape} {dtype}"
        return ValueError(
            f"observation is {array.shape} {array.dtype}; this agent takes {wanted}, "
            "single or with a leading batch axis"
        )


def pipeline_from_dict(data: Any) -> ObservationPipeline:
    """Reverse of `to_dict`. Raises ValueError if it is not one."""
    damaged = ValueError("the observation pipeline is damaged")
    if not isinstance(data, dict) or not isinstance(data.get("raw_shape"), list):
        raise damaged
    shape: tuple[Any, ...] = tuple(data["raw_shape"])
    values: list[Any] = [data.get(key) for key in ("kind", "side", "grey", "scale")]
    kind, side, grey, scale = values
    known = kind in ("vector", "image", "planes") and grey in ("cv2", "ale")
    sizes = all(type(n) is int and n >= 1 for n in shape) and math.prod(shape) <= LARGEST
    factors = isinstance(scale, list) and all(
        type(f) in (int, float) and LEAST < f < 1 / LEAST for f in scale
    )
    if not (known and sizes and factors and type(side) is int and 1 <= side <= LARGEST_SIDE):
        raise damaged
    if kind == "vector":
        fits = len(shape) == 1 and len(scale) in (0, *shape)
    elif kind == "planes":
        fits = not scale and len(shape) == 3
    else:
        fits = not scale and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))
    if not fits:
        raise damaged
    return ObservationPipeline(kind, shape, side, grey, tuple(float(factor) for factor in scale))


def as_array(observation: Any) -> NDArray[Any]:
    """What an environment returned as an array.

    Raises:
        SnnRlError: it is no array of numbers, or the info of a reset came with it.
    """
    if (
        isinstance(observation, tuple)
        and len(observation) == 2
        and isinstance(observation[1], dict)
    ):
        raise SnnRlError(
            "the observation comes with its info: obs, info = env.reset(), then act(obs)"
        )
    try:
        return np.asarray(observation)
    except (TypeError, ValueError, RuntimeError) as error:  # bfloat16, graphs, ragged lists
        kind = f"{type(observation).__name__} {getattr(observation, 'dtype', '')}".strip()
        raise SnnRlError(f"the observation ({kind}) is no array of numbers: {error}") from None
