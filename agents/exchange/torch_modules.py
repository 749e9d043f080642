"""Trained torch Q-networks, in Python or as saved weights, to agents of stage `ann`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from snn_rl.agents.agent import Agent
from snn_rl.agents.exchange.imported import (
    Origin,
    check_conditions,
    image_differences,
    image_pipeline,
    imported_agent,
    vector_pipeline,
)
from snn_rl.envs import check_spaces
from snn_rl.errors import SnnRlError
from snn_rl.exchange.torch_modules import read_module, traced


def from_torch(
    module: nn.Module,
    env: str,
    *,
    stack: int = 1,
    maxpool: bool = False,
    fire_reset: bool = False,
    scale: Sequence[float] | None = None,
) -> Agent:
    """Agent of stage `ann` that computes what `module` computes; its parameters are copied.

    Args:
        module: feed-forward Q-network of a batch of float32: vectors [batch, stack * features], or
            grey pixels 0...255 [batch, stack, 84, 84]; oldest frame first, zeros before an
            episode's start.
        env: Gymnasium id that the agent is to play.
        stack: frames that the module sees at once.
        maxpool: its Atari frames showed the maximum of two raw ones.
        fire_reset: FIRE and action 2 opened the lives of its Atari games, as CleanRL has it.
        scale: factor per feature of a vector, as it was trained; None for the features as they are.

    Raises:
        SnnRlError, ConversionError: one sentence on what does not fit, or has no spiking
            counterpart.
    """
    origin = Origin(f"torch ({type(module).__name__})")
    return _agent(module, env, stack, maxpool, fire_reset, scale, origin)


def from_weights(
    path: str | Path,
    network: str,
    env: str,
    *,
    stack: int = 1,
    maxpool: bool = False,
    fire_reset: bool = False,
    scale: Sequence[float] | None = None,
) -> Agent:
    """Agent of stage `ann` from `torch.save(module.state_dict(), path)`.

    Args:
        path: the weights; nothing in the file is executed.
        network: "module:factory" of the code that builds the module, a class or a function. It is
            called without arguments, with the environment (CleanRL), or with input shape and number
            of actions, as many as it takes.
        env, stack, maxpool, fire_reset, scale: as for `from_torch`.

    Raises:
        SnnRlError, ConversionError: one sentence on what is damaged, missing or does not fit.
    """
    path, spec = Path(path), check_spaces(env)
    frame = (1, 84, 84) if spec.kind == "image" else spec.observation_shape
    module = read_module(path, network, (stack * frame[0], *frame[1:]), spec.num_actions)
    origin = Origin(f"torch ({type(module).__name__} of {network})", path)
    return _agent(module, env, stack, maxpool, fire_reset, scale, origin)


def _agent(
    module: nn.Module,
    env: str,
    stack: int,
    maxpool: bool,
    fire_reset: bool,
    scale: Sequence[float] | None,
    origin: Origin,
) -> Agent:
    if stack < 1:
        raise SnnRlError(f"stack must be at least 1, not {stack}")
    spec = check_spaces(env)
    check_conditions(spec, maxpool, fire_reset)
    pixels = spec.kind == "image"
    if pixels and scale is not None:
        raise SnnRlError(f"{env} shows images: scale is for vectors, so let the module divide")
    pipeline = image_pipeline(spec) if pixels else vector_pipeline(spec, scale)
    network = traced(module, pipeline.frame_shape, pixels=pixels, stack=stack)
    differences = tuple(image_differences(spec, fire_reset))
    origin = Origin(origin.source, origin.file, differences)
    shown = {"maxpool": maxpool, "fire_reset": fire_reset}
    return imported_agent(network, spec, pipeline, origin, **shown)
