"""Trained torch Q-networks, in Python or as saved weights, to networks that are traced."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network
from snn_rl.errors import SnnRlError
from snn_rl.exchange.archive import WEIGHTS_LIMIT, read_state_dict

PROBES, TOLERANCE = 16, 1e-3


def traced(module: nn.Module, frame: tuple[int, ...], *, pixels: bool, stack: int) -> Network:
    """Network that computes what `module` computes, whose parameters are copied.

    Args:
        frame, pixels, stack: as for `snn_rl.conversion.tracing.trace`.

    Raises:
        ConversionError: an operation that has no spiking counterpart.
        SnnRlError: the traced layers give other values than the module.
    """
    module = copy.deepcopy(module).cpu().float().eval()
    network = trace(module, frame, pixels=pixels, stack=stack).eval()
    _check_same(module, network)
    return network


def read_module(path: Path, network: str, seen: tuple[int, ...], actions: int) -> nn.Module:
    """The module that `torch.save(module.state_dict(), path)` wrote; nothing there is executed.

    Args:
        network: "module:factory" of the code that builds it.
        seen: shape of what it sees at once, frames stacked; three axes are pixels.
        actions: Q-values that it gives.

    Raises:
        SnnRlError: one sentence on what is damaged, missing or does not fit.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= WEIGHTS_LIMIT else b""
    except FileNotFoundError:
        raise SnnRlError(f"there is no file {path}") from None
    if not content:
        raise SnnRlError(f"{path} is empty or larger than {WEIGHTS_LIMIT >> 20} MiB: refused")
    weights = read_state_dict(content, str(path))
    module = _build(network, seen, actions)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).partition(": ")[2] or str(error)
        raise SnnRlError(f"{path} does not fit {network}: {reason[:200]}") from None
    return module


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


def _build(name: str, shape: tuple[int, ...], actions: int) -> nn.Module:
    """The freshly initialised module that `name`, "module:factory", builds."""
    factory = _find(name)
    pixels = len(shape) == 3
    low, high = (0, 255) if pixels else (-np.inf, np.inf)
    seen = gym.spaces.Box(low, high, shape, np.uint8 if pixels else np.float32)
    spaces = Spaces(seen, gym.spaces.Discrete(actions))
    arguments: list[tuple[Any, ...]] = [(), (spaces,), (shape, actions)]
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
