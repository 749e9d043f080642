"""From what an environment returns to the frame a network reads: one pipeline for all uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from snn_rl.envs.spaces import EnvironmentSpec
from snn_rl.envs.vector import make_vector

# Of red, green and blue, in 1/10000, as ALE computed its palettes' grey levels.
_ALE_WEIGHTS = np.array([2989, 5870, 1140], np.float32)

_REACH = 8.0  # scaled features stay within about this
_UNBOUNDED = 1e6  # bounds from here on stand for none


@dataclass(frozen=True)
class ObservationPipeline:
    """Vectors become scaled float32; images become one grey uint8 frame of `side` x `side` pixels.

    Attributes:
        kind: "vector" or "image".
        raw_shape: one observation as the environment returns it: (features,), (height, width) or
            (height, width, channels) with 1 (grey) or 3 (RGB) channels.
        side: edge of the frame in pixels (images).
        grey: formula from RGB to grey: OpenCV's, or the one behind ALE's palettes. With "ale" the
            raw RGB frame of an Atari game gives the very frame that `AtariVector` shows, except
            in Air Raid, whose RGB colours do not determine ALE's grey levels.
        scale: factor per feature of a vector; () leaves it as it is. Networks learn slowly from
            features whose whole range is small, such as a pole's angle.
    """

    kind: Literal["vector", "image"]
    raw_shape: tuple[int, ...]
    side: int = 84
    grey: Literal["cv2", "ale"] = "cv2"
    scale: tuple[float, ...] = ()

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame: (features,) or (1, side, side)."""
        return self.raw_shape if self.kind == "vector" else (1, self.side, self.side)

    @property
    def pixels(self) -> bool:
        """Whether frames are uint8 pixels."""
        return self.kind == "image"

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
        if array.shape[1:] == self.frame_shape:
            return np.require(array, requirements=["C", "W"])  # as torch wants it
        if array.shape[1:] != self.raw_shape:
            raise self._mismatch(array)
        return np.stack([self._grey(image) for image in array])[:, None]

    def is_single(self, observation: NDArray[Any]) -> bool:
        """Whether this is one observation, not a batch. Raises ValueError if it is neither."""
        array = np.asarray(observation)
        for known in (self.raw_shape, self.frame_shape) if self._has_type(array) else ():
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

    def _grey(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        grey: NDArray[Any] = image
        if image.ndim == 3:
            grey = image[..., 0] if image.shape[2] == 1 else self._from_rgb(image)
        if grey.shape != (self.side, self.side):
            grey = cv2.resize(grey, (self.side, self.side), interpolation=cv2.INTER_AREA)
        return grey

    def _from_rgb(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        if self.grey == "cv2":
            return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        weighted = image.astype(np.float32) @ _ALE_WEIGHTS  # exact: whole numbers below 2**24
        return ((weighted.astype(np.int32) + 5000) // 10000).astype(np.uint8)

    def _has_type(self, array: NDArray[Any]) -> bool:
        return array.dtype == np.uint8 if self.pixels else array.dtype.kind in "fiu"

    def _mismatch(self, array: NDArray[Any]) -> ValueError:
        dtype = "float" if self.kind == "vector" else "uint8"
        wanted = f"{self.raw_shape} {dtype}"
        if self.frame_shape != self.raw_shape:
            wanted += f" or {self.frame_shape} {dtype}"
        return ValueError(
            f"observation is {array.shape} {array.dtype}; this agent takes {wanted}, "
            "single or with a leading batch axis"
        )


def pipeline_for(spec: EnvironmentSpec) -> ObservationPipeline:
    """The pipeline of an environment.

    Raises:
        ValueError: images that are neither grey nor RGB.
    """
    shape = spec.observation_shape
    if spec.kind == "image" and len(shape) == 3 and shape[2] not in (1, 3):
        raise ValueError(
            f"{spec.env_id!r} returns images of {shape[2]} channels; 1 (grey) and 3 (RGB) are "
            "supported"
        )
    scale = measure_scale(spec.env_id) if spec.kind == "vector" else ()
    return ObservationPipeline(spec.kind, shape, grey=spec.grey, scale=scale)


def measure_scale(env_id: str) -> tuple[float, ...]:
    """Factor per feature that brings its spread under random play near 1.

    Where the feature has bounds, they are kept within ±8, since good play goes further than
    random play. Factors are powers of two, so that scaling is exact; constants keep 1.
    """
    count, steps, seed = 16, 128, 0
    generator = np.random.default_rng(seed)
    vector = make_vector(env_id, count, seed=seed)
    try:
        seen = [vector.reset()[0]]
        actions: Any = vector.single_action_space
        for _ in range(steps):
            seen.append(vector.step(generator.integers(actions.n, size=count))[0])
    finally:
        vector.close()
    spread = np.concatenate(seen).astype(np.float64).std(0)
    space: Any = vector.single_observation_space
    bounds = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64)
    spread = np.where(bounds < _UNBOUNDED, np.maximum(spread, bounds / _REACH), spread)
    exponents = -np.round(np.log2(np.where(spread > 1e-9, spread, 1.0)))
    return tuple((2.0**exponents).tolist())


def measure_background(env_id: str, pipeline: ObservationPipeline) -> int:
    """The median grey level of frames under random play, 0 to 255.

    Seen from it, most pixels are zero and what moves stands out; from black, networks learn about
    a small ball on a grey ground many times slower.
    """
    generator = np.random.default_rng(0)
    vector = make_vector(env_id, 2, seed=0)
    try:
        seen = [pipeline.encode(vector.reset()[0])]
        actions: Any = vector.single_action_space
        for _ in range(64):
            observation = vector.step(generator.integers(actions.n, size=2))[0]
            seen.append(pipeline.encode(observation))
    finally:
        vector.close()
    return int(np.median(np.stack(seen)))


def pipeline_from_dict(data: Any) -> ObservationPipeline:
    """Reverse of `to_dict`. Raises ValueError if it is not one."""
    try:
        kind, shape, side = data["kind"], tuple(int(n) for n in data["raw_shape"]), data["side"]
        grey, scale = data["grey"], tuple(float(factor) for factor in data["scale"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("the observation pipeline is damaged") from None
    known = kind in ("vector", "image") and grey in ("cv2", "ale")
    fits = not scale or (kind == "vector" and (len(scale),) == shape)
    if not known or not fits or not isinstance(side, int):
        raise ValueError("the observation pipeline is damaged")
    return ObservationPipeline(kind, shape, side, grey, scale)
