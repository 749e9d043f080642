"""What a run is given: a saved teacher, a saved agent to start from, a device."""

from __future__ import annotations

import torch

from snn_rl.agents.agent import Agent
from snn_rl.agents.config import TrainConfig, teacher_stack
from snn_rl.agents.loading import load_agent
from snn_rl.agents.policy import Policy
from snn_rl.envs import EnvironmentSpec
from snn_rl.envs.observation import ObservationPipeline
from snn_rl.errors import SnnRlError


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
