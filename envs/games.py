"""What a Gymnasium id stands for, read from its specification without creating anything."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

ALE_ENTRY_POINT = "ale_py.env:AtariEnv"

DECISION_FRAMES = 4
"""Raw frames per decision where an id leaves frame skipping to the agent (``NoFrameskip``)."""

NO_LIMIT = 2**31 - 2
"""Frames per episode that ALE's 32-bit counters can be told to take for no limit."""


class UnsupportedEnvironment(ValueError):
    """The environment is unknown, or is not one that an agent here can use."""


def reason_of(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class AtariGame:
    """What a Gymnasium id promises of its Atari game.

    Attributes:
        env_id: Gymnasium id.
        rom: name of the game's ROM.
        frame_skip: raw frames per decision.
        sticky: probability that a raw frame repeats the previous frame's action.
        full_action_space: all 18 actions instead of those that the game uses.
        decisions: an episode is truncated after so many decisions.
    """

    env_id: str
    rom: str
    frame_skip: int
    sticky: float
    full_action_space: bool
    decisions: int


def import_environments(module: str) -> None:
    """Import a module that registers environments with Gymnasium, at once or by its function
    `register_envs`.

    Nothing else here imports what an id names: an id may come from another's file.

    Raises:
        UnsupportedEnvironment: it cannot be imported.
    """
    try:
        known = module in sys.modules
        register = getattr(importlib.import_module(module), "register_envs", None)
        if callable(register) and not known:
            register()
    except (Exception, SystemExit) as error:
        raise UnsupportedEnvironment(
            f"the module {module!r} cannot be imported: {reason_of(error)}"
        ) from error


def split_id(env_id: str) -> tuple[str, str]:
    """Module ("" for none) and Gymnasium's own id of ``module:id``."""
    module, _, name = env_id.rpartition(":")
    return module, name


def find_spec(env_id: str) -> EnvSpec:
    """Gymnasium's specification of an id, also of ``module:id`` once the module is imported.

    Raises:
        UnsupportedEnvironment: the id is unknown, or its module is not imported.
    """
    module, name = split_id(env_id)
    if module and module not in sys.modules:
        raise UnsupportedEnvironment(
            f"{env_id!r} needs the module {module!r}, which is not imported since a file names "
            f"it: if you trust it, add --import {module} (in Python: import {module})"
        )
    if name not in gym.registry:
        with contextlib.suppress(ImportError):
            importlib.import_module("ale_py")  # registers the Atari games
    if name in gym.registry:
        return gym.registry[name]
    # The Deterministic ids, now gone, were what NoFrameskip ids are here: four frames a decision.
    name = name.replace("Deterministic", "NoFrameskip")
    near = difflib.get_close_matches(name, gym.registry, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "import the package that registers it first."
    raise UnsupportedEnvironment(f"Gymnasium knows no environment {env_id!r}: {hint}")


def unlimited(env_id: str) -> bool:
    """Whether nothing but its own rules ends an episode of an environment."""
    return atari_game(env_id) is None and find_spec(env_id).max_episode_steps is None


def atari_game(env_id: str) -> AtariGame | None:
    """The game behind a Gymnasium id, or None if it is not plainly one of ALE's.

    An id without frame skip is played at ``DECISION_FRAMES`` per decision, any other at its own.

    Raises:
        UnsupportedEnvironment: the id is unknown, has no ROM, or asks for what ALE's vector
            environment cannot do (a random frame skip, another mode or difficulty, …).
    """
    spec = find_spec(env_id)
    if spec.entry_point != ALE_ENTRY_POINT or spec.additional_wrappers:
        return None
    options: dict[str, Any] = spec.kwargs
    if options.get("obs_type") == "ram":
        return None
    skip = options.get("frameskip", 4)
    if not isinstance(skip, int):
        raise UnsupportedEnvironment(
            f"{env_id!r} skips a random number of frames, {skip[0]} to {skip[1] - 1}, but only "
            "fixed numbers are supported: choose the game's NoFrameskip or ALE/…-v5 id instead."
        )
    for name in ("mode", "difficulty", "continuous", "sound_obs"):
        if options.get(name):
            raise UnsupportedEnvironment(
                f"{env_id!r} sets {name}, which ALE's vector environment cannot do."
            )
    rom = str(options.get("game"))
    _check_rom(env_id, rom)
    skip = DECISION_FRAMES if skip == 1 else skip
    frames = options.get("max_num_frames_per_episode") or NO_LIMIT
    decisions = -(-frames // skip)
    return AtariGame(
        env_id,
        rom,
        skip,
        float(options.get("repeat_action_probability", 0.25)),
        bool(options.get("full_action_space", False)),
        min(decisions, spec.max_episode_steps or decisions),
    )


def _check_rom(env_id: str, rom: str) -> None:
    """Refuse a game whose ROM is missing or damaged; ALE would end the process."""
    from ale_py import roms

    reason = "it is not one of ALE's"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if roms.get_rom_path(rom) is not None:
                return
    except OSError as error:
        reason = " ".join(str(error).split())
    raise UnsupportedEnvironment(
        f"{env_id!r} needs the ROM {rom!r}, which ale-py cannot load: {reason}"
    )
