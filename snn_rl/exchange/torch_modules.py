"""Trained torch Q-networks, in Python or as saved weights, to agents of stage `ann`."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from snn_rl.agents.agent import Agent
from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network
from snn_rl.envs import EnvironmentSpec, check_spaces
from snn_rl.errors import SnnRlError
from snn_rl.exchange.archive import WEIGHTS_LIMIT, read_state_dict
from snn_rl.exchange.imported import (
    Origin,
    check_maxpool,
    image_differences,
    image_pipeline,
    imported_agent,
    vector_pipeline,
    waits_for_fire,
)

PROBES, TOLERANCE = 16, 1e-3


def from_torch(
    module: nn.Module,
    env: str,
    *,
    stack: int = 1,
    maxpool: bool = False,
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
        scale: factor per feature of a vector, as it was trained; None for the features as they are.

    Raises:
        SnnRlError, ConversionError: one sentence on what does not fit, or has no spiking
            counterpart.
    """
    return _agent(module, env, stack, maxpool, scale, Origin(f"torch ({type(module).__name__})"))


def from_weights(
    path: str | Path,
    network: str,
    env: str,
    *,
    stack: int = 1,
    maxpool: bool = False,
    scale: Sequence[float] | None = None,
) -> Agent:
    """Agent of stage `ann` from `torch.save(module.state_dict(), path)`.

    Args:
        path: the weights; nothing in the file is executed.
        network: "module:factory" of the code that builds the module, a class or a function. It is
            called without arguments, with the environment (CleanRL), or with input shape and number
            of actions, as many as it takes.
        env, stack, maxpool, scale: as for `from_torch`.

    Raises:
        SnnRlError, ConversionError: one sentence on what is damaged, missing or does not fit.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= WEIGHTS_LIMIT else b""
    except FileNotFoundError:
        raise SnnRlError(f"there is no file {path}") from None
    if not content:
        raise SnnRlError(f"{path} is empty or larger than {WEIGHTS_LIMIT >> 20} MiB: refused")
    weights = read_state_dict(content, str(path))
    module = _build(network, check_spaces(env), stack)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).partition(": ")[2] or str(error)
        raise SnnRlError(f"{path} does not fit {network}: {reason[:200]}") from None
    origin = Origin(f"torch ({type(module).__name__} of {network})", path)
    return _agent(module, env, stack, maxpool, scale, origin)


def _agent(
    module: nn.Module,
    env: str,
    stack: int,
    maxpool: bool,
    scale: Sequence[float] | None,
    origin: Origin,
) -> Agent:
    if stack < 1:
        raise SnnRlError(f"stack must be at least 1, not {stack}")
    spec = check_spaces(env)
    check_maxpool(spec, maxpool)
    pixels = spec.kind == "image"
    if pixels and scale is not None:
        raise SnnRlError(f"{env} shows images: scale is for vectors, so let the module divide")
    pipeline = image_pipeline(spec) if pixels else vector_pipeline(spec, scale)
    module = copy.deepcopy(module).cpu().float().eval()
    network = trace(module, pipeline.frame_shape, pixels=pixels, stack=stack).eval()
    _check_same(module, network)
    differences = tuple(image_differences(spec, waits_for_fire(spec)))
    origin = Origin(origin.source, origin.file, waits_for_fire(spec), differences)
    return imported_agent(network, spec, pipeline, origin, maxpool=maxpool)


@torch.no_grad()
def _check_same(module: nn.Module, network: Network) -> None:
    """Raise SnnRlError unless the traced network computes what the module does."""
    generator = np.random.default_rng(0)
    shape = (PROBES, network.stack, *network.input_shape)
    frames = torch.from_numpy(
        generator.integers(0, 256, shape, np.uint8)
        if network.pixels
        else generator.normal(size=shape).astype(np.float32)
    )
    expected = module(frames.flatten(1, 2).float())
    state = network.initial_state(PROBES)
    found, _ = network(frames.movedim(1, 0), state)
    error = float((found[-1] - expected).abs().max())
    if not error <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise SnnRlError(
            f"{type(module).__name__} gives other values than its traced layers (by {error:.3g}): "
            "its forward must be a fixed sequence of layers"
        )


@dataclass(frozen=True)
class Spaces:
    """What a network's constructor may ask of its environment, single or vectorised."""

    single_observation_space: gym.spaces.Box
    single_action_space: gym.spaces.Discrete

    @property
    def observation_space(self) -> gym.spaces.Box:
        """One stacked observation."""
        return self.single_observation_space

    @property
    def action_space(self) -> gym.spaces.Discrete:
        """One action."""
        return self.single_action_space


def _build(name: str, spec: EnvironmentSpec, stack: int) -> nn.Module:
    """The freshly initialised module that `name`, "module:factory", builds."""
    factory = _find(name)
    pixels = spec.kind == "image"
    frame = (1, 84, 84) if pixels else spec.observation_shape
    shape = (stack * frame[0], *frame[1:])
    low, high = (0, 255) if pixels else (-np.inf, np.inf)
    seen = gym.spaces.Box(low, high, shape, np.uint8 if pixels else np.float32)
    spaces = Spaces(seen, gym.spaces.Discrete(spec.num_actions))
    arguments: list[tuple[Any, ...]] = [(), (spaces,), (shape, spec.num_actions)]
    count = _required(factory)
    if count >= len(arguments):
        raise SnnRlError(
            f"{name} takes {count} arguments; a factory takes none, the environment, or input "
            "shape and number of actions"
        )
    module = factory(*arguments[count])
    if not isinstance(module, nn.Module):
        raise SnnRlError(f"{name} returns {type(module).__name__}, not a torch module")
    return module


def _find(name: str) -> Callable[..., Any]:
    place, _, attribute = name.partition(":")
    if not place or not attribute:
        raise SnnRlError(f"--network {name!r} must be module:factory, e.g. dqn:QNetwork")
    here = os.getcwd()
    sys.path.insert(0, here)  # an installed command does not look where it is called
    try:
        found: Any = getattr(importlib.import_module(place), attribute)
    except (ImportError, AttributeError) as error:
        raise SnnRlError(f"--network {name!r} cannot be found: {error}") from None
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise SnnRlError(f"--network {name!r} is no class or function that builds a module")
    factory: Callable[..., Any] = found
    return factory


def _required(factory: Callable[..., Any]) -> int:
    """How many arguments a factory cannot do without."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(factory).parameters.values()
    return sum(p.default is p.empty and p.kind in positional for p in parameters)
