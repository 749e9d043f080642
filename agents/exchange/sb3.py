"""DQN agents that Stable-Baselines3 saved: `model.zip` to an agent of stage `ann`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from snn_rl.agents.agent import Agent
from snn_rl.agents.exchange.imported import (
    Origin,
    check_conditions,
    has_fire,
    image_differences,
    image_pipeline,
    imported_agent,
    vector_pipeline,
)
from snn_rl.conversion.tracing import trace
from snn_rl.envs import EnvironmentSpec, atari_game, check_spaces
from snn_rl.errors import SnnRlError
from snn_rl.exchange.sb3 import Saved, read_saved
from snn_rl.exchange.sb3_policy import Normalisation, build, check_plain

CLIPPING = "VecNormalize clips normalised observations, by default at 10 from 0: here they are not"


def from_sb3(
    path: str | Path,
    env: str,
    *,
    maxpool: bool | None = None,
    fire_reset: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Agent:
    """Agent of stage `ann` from a DQN that Stable-Baselines3 saved with `model.save(path)`.

    Args:
        path: the zip; nothing in it is executed.
        env: Gymnasium id that the agent is to play.
        maxpool: whether its Atari frames showed the maximum of two raw ones; by default yes, as in
            Stable-Baselines3's AtariWrapper.
        fire_reset: whether FIRE and action 2 opened the lives of its Atari games; by default where
            the game knows FIRE, as in AtariWrapper.
        mean, std: of VecNormalize, one number per feature, if the agent was trained with it.

    Raises:
        SnnRlError: one sentence on what is damaged, missing or has no counterpart here.
    """
    path = Path(path)
    _check_not_normalised(path, mean, std)
    saved = read_saved(path)
    check_plain(saved.options, path)
    spec = check_spaces(env)
    stack = _stacked(saved, spec, path)
    pixels = spec.kind == "image"
    if maxpool is None:
        maxpool = pixels and atari_game(env) is not None
    if fire_reset is None:
        fire_reset = pixels and has_fire(spec)
    check_conditions(spec, maxpool, fire_reset)
    pipeline = image_pipeline(spec) if pixels else vector_pipeline(spec, None)
    normalisation = Normalisation.of(mean, std, math.prod(spec.observation_shape), stack)
    if normalisation is not None and pixels:
        raise SnnRlError(f"{env} shows images: mean and std are for vectors of numbers")
    module = build(saved.weights, saved.options, path, pixels, normalisation)
    network = trace(module, pipeline.frame_shape, pixels=pixels, stack=stack)
    differences = [] if normalisation is None else [CLIPPING]
    if pixels:
        differences += image_differences(spec, fire_reset)
    source = f"Stable-Baselines3 {saved.version} DQN"
    origin = Origin(source, path, tuple(differences))
    shown = {"maxpool": maxpool, "fire_reset": fire_reset}
    return imported_agent(network, spec, pipeline, origin, **shown)


def _check_not_normalised(
    path: Path, mean: Sequence[float] | None, std: Sequence[float] | None
) -> None:
    """A zip does not say that VecNormalize was used; its statistics beside it do."""
    if mean is not None or std is not None or not path.parent.is_dir():
        return
    for file in sorted(path.parent.glob("*.pkl")):
        if "vecnormalize" in file.name.lower().replace("_", "").replace("-", ""):
            raise SnnRlError(
                f"{path} was trained with VecNormalize, whose {file.name} is a pickle and is not "
                "executed: give its obs_rms.mean as --mean and sqrt(obs_rms.var + epsilon) as "
                "--std (or, if it belongs to another agent, move it away)"
            )


def _stacked(saved: Saved, spec: EnvironmentSpec, path: Path) -> int:
    """How many frames the agent saw at once.

    Raises:
        SnnRlError: its observations are not what the environment shows here.
    """
    if spec.kind == "vector":
        features = spec.observation_shape[0]
        if len(saved.seen) != 1 or saved.seen[0] % features:
            raise SnnRlError(
                f"{path} sees observations of shape {saved.seen}; {spec.env_id} shows "
                f"{features} numbers"
            )
        return saved.seen[0] // features
    if len(saved.seen) != 3 or saved.dtype != "uint8":
        raise SnnRlError(
            f"{path} sees {saved.dtype} observations of shape {saved.seen}; {spec.env_id} "
            "shows uint8 images"
        )
    channels = min(saved.seen)
    if sorted(saved.seen)[1:] != [84, 84]:
        raise SnnRlError(
            f"{path} sees images of shape {saved.seen}; here they are grey and 84 x 84 pixels"
        )
    if atari_game(spec.env_id) is None and spec.observation_shape[2:] == (channels,) != (1,):
        raise SnnRlError(f"{path} sees colours; here images are grey")
    return channels
