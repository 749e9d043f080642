"""The pipeline that suits an environment, measured on random play."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from snn_rl.envs.spaces import EnvironmentSpec
from snn_rl.envs.vector import make_vector
from snn_rl.inference.observation import ObservationPipeline, pipeline_from_dict

__all__ = [
    "ObservationPipeline",
    "measure_background",
    "measure_scale",
    "pipeline_for",
    "pipeline_from_dict",
]

_REACH = 8.0  # scaled features stay within about this
_UNBOUNDED = 1e6  # bounds from here on stand for none


def pipeline_for(
    spec: EnvironmentSpec, env_kwargs: Mapping[str, Any] | None = None
) -> ObservationPipeline:
    """The pipeline of an environment, scaled to what random play shows where that are numbers."""
    scale = measure_scale(spec.env_id, env_kwargs) if spec.kind == "vector" else ()
    shape = spec.observation_shape
    return ObservationPipeline(spec.kind, shape, grey=spec.grey, scale=scale)


def measure_scale(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> tuple[float, ...]:
    """Factor per feature that brings its spread under random play near 1.

    Where the feature has bounds, they are kept within ±8, since good play goes further than
    random play. Factors are powers of two, so that scaling is exact; constants keep 1.
    """
    count, steps, seed = 16, 128, 0
    generator = np.random.default_rng(seed)
    vector = make_vector(env_id, count, seed=seed, env_kwargs=env_kwargs)
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


def measure_background(
    env_id: str, pipeline: ObservationPipeline, env_kwargs: Mapping[str, Any] | None = None
) -> int:
    """The median grey level of frames under random play, 0 to 255.

    Seen from it, most pixels are zero and what moves stands out; from black, networks learn about
    a small ball on a grey ground many times slower.
    """
    generator = np.random.default_rng(0)
    vector = make_vector(env_id, 2, seed=0, env_kwargs=env_kwargs)
    try:
        seen = [pipeline.encode(vector.reset()[0])]
        actions: Any = vector.single_action_space
        for _ in range(64):
            observation = vector.step(generator.integers(actions.n, size=2))[0]
            seen.append(pipeline.encode(observation))
    finally:
        vector.close()
    return int(np.median(np.stack(seen)))
