"""What a run is given: a saved teacher, a saved agent to start from, a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from snn_rl.agents.agent import IMPORTED, Agent
from snn_rl.agents.config import TrainConfig, teacher_stack
from snn_rl.agents.loading import find_agent, load_agent
from snn_rl.agents.policy import Policy
from snn_rl.agents.presets import with_preset
from snn_rl.envs import EnvironmentSpec
from snn_rl.envs.observation import ObservationPipeline, pipeline_for
from snn_rl.errors import SnnRlError
from snn_rl.runs.checkpoint import read_card
from snn_rl.support.settings import merge


def settings_for(
    wanted: Mapping[str, Any], preset: str | None = None, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Settings of a run: preset, then what the imported agent it starts from needs, then `wanted`.

    Args:
        wanted: what the user asks for.
        preset: another preset of the environment than its first one.
        base: settings in place of a preset (a configuration file): they are the user's, too.

    Raises:
        ConfigError: the environment has no preset of this name.
        CheckpointError: there is no such agent to start from.
    """
    asked = merge(base or {}, wanted)
    asked = merge(imported_settings(asked.get("start")), asked)
    return asked if base is not None else with_preset(asked, preset)


def imported_settings(start: Any) -> dict[str, Any]:
    """How a run takes an imported agent as it is: its frames and FIRE, itself as the teacher.

    Args:
        start: agent whose weights the run starts from, if any; empty result if it was trained here.
    """
    card = read_card(find_agent(start)) if isinstance(start, str) else {}
    if IMPORTED not in card:
        return {}
    try:
        stack = card["graph"][0]["options"]["stack"]
        maxpool = card["environment"]["maxpool"]
        fire_reset = card["environment"].get("fire_reset", False)
    except (KeyError, IndexError, TypeError):
        raise SnnRlError(f"{start} is damaged: its card does not say what it sees") from None
    seen = {"stack": stack, "maxpool": maxpool, "fire_reset": fire_reset}
    return {**seen, "teacher": "self", "ann": {"steps": 0}}


def observed(config: TrainConfig, spec: EnvironmentSpec) -> ObservationPipeline:
    """What the run's networks see: an imported agent goes on seeing what it saw at home."""
    if config.start is not None:
        agent = load_agent(config.start)
        seen = agent.pipeline
        if agent.imported and (seen.kind, seen.raw_shape) == (spec.kind, spec.observation_shape):
            return seen
    return pipeline_for(spec, config.env_kwargs)


def load_teacher(
    config: TrainConfig, spec: EnvironmentSpec, pipeline: ObservationPipeline
) -> Policy | None:
    """The saved agent that `config.teacher` names; None for a teacher that the run trains.

    Raises:
        SnnRlError: it does not fit the environment.
    """
    name = config.teacher
    if name in ("self", "full_state") or teacher_stack(name):
        return None
    agent = load_agent(name, "torch")
    if agent.num_actions != spec.num_actions:
        raise SnnRlError(
            f"teacher {name} has {agent.num_actions} actions; {config.env} has {spec.num_actions}"
        )
    if not agent.policy.privileged and agent.pipeline != pipeline:
        raise SnnRlError(f"teacher {name} does not see what {config.env} shows")
    return agent.policy


def load_start(
    config: TrainConfig, spec: EnvironmentSpec, pipeline: ObservationPipeline
) -> Agent | None:
    """The saved agent whose weights the run starts from, if any.

    Raises:
        SnnRlError: it does not fit the environment or the configuration.
    """
    name = config.start
    if name is None:
        return None
    agent = load_agent(name, "torch")
    network = agent.policy.network
    if agent.num_actions != spec.num_actions or agent.pipeline != pipeline:
        raise SnnRlError(f"agent {name} does not fit {config.env}")
    if agent.policy.privileged:
        raise SnnRlError(f"agent {name} reads the full state: a run cannot start from it")
    if network.stack != config.stack:
        raise SnnRlError(f"agent {name} sees {network.stack} frames: --set stack={network.stack}")
    if network.spiking and not config.stages():
        raise SnnRlError(f"agent {name} is spiking: --timesteps must be at least 1")
    if network.spiking and config.teacher == "self" and max(config.spiking.distill) > 0:
        raise SnnRlError(f"agent {name} is spiking, so this run has no ANN: name a --teacher")
    return agent


def choose_device(name: str, pixels: bool) -> torch.device:
    """Device by name; auto takes a GPU for images alone, where it pays.

    Raises:
        SnnRlError: the device is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if pixels and torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise SnnRlError(f"device {name!r} is not available here: use auto, cpu or cuda") from None
    return device
