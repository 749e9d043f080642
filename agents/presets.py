"""The settings shipped for environments: configs/*.yaml, by environment, name and frames seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snn_rl.envs.games import UnsupportedEnvironment, atari_game
from snn_rl.errors import ConfigError
from snn_rl.support.settings import merge, shipped, shipped_names


def with_preset(settings: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """`settings` on top of those shipped for their "env" and "stack": configs/<env>.yaml; for other
    Atari games, and for any that is seen in several frames, Atari.yaml and Atari-stacked.yaml.

    Args:
        name: of another preset of the environment, configs/<env>-<name>.yaml.

    Raises:
        ConfigError: the environment has no preset of this name.
    """
    env_id = str(settings.get("env", ""))
    return merge(
        _named(env_id, name) if name else _preset(env_id, settings.get("stack", 1) != 1), settings
    )


def _named(env_id: str, name: str) -> dict[str, Any]:
    prefix = env_id.replace("/", "-") + "-"
    names = [file.removeprefix(prefix) for file in shipped_names() if file.startswith(prefix)]
    if name not in names:
        known = (
            f"it has {', '.join(names)}" if names else "it has none but its default: leave it out"
        )
        raise ConfigError(f"{env_id or 'no environment'} has no preset {name!r}; {known}")
    return shipped(prefix + name)


def _preset(env_id: str, stacked: bool) -> dict[str, Any]:
    if stacked and _is_atari(env_id):
        return shipped("Atari-stacked")
    preset = shipped(env_id.replace("/", "-"))
    return shipped("Atari") if not preset and _is_atari(env_id) else preset


def _is_atari(env_id: str) -> bool:
    try:
        return atari_game(env_id) is not None
    except UnsupportedEnvironment:  # told by whoever makes the environment
        return False
