"""A whole run: teacher, ANN, conversion, then spiking stages from T down to 1, each one saved."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from snn_rl.agents.agent import Agent, load_agent
from snn_rl.agents.config import LearnerConfig, TrainConfig, teacher_stack
from snn_rl.agents.evaluation import Conditions, evaluate, validation_seeds
from snn_rl.agents.policy import Policy, full_state
from snn_rl.agents.qnetwork import mlp, nature_cnn
from snn_rl.agents.replay import SegmentReplay
from snn_rl.agents.rollout import Exploration, Rollout
from snn_rl.agents.training import Monitor, Result, Task, train_stage
from snn_rl.checkpoint import write_text
from snn_rl.conversion import Calibration, NeuronOptions, convert
from snn_rl.envs import check_spaces
from snn_rl.envs.observation import pipeline_for
from snn_rl.errors import SnnRlError
from snn_rl.network import Network
from snn_rl.neuron import Surrogate
from snn_rl.pruning import temporal_pruning
from snn_rl.tracing import trace

log = logging.getLogger(__name__)

CALIBRATION_ENVS, CALIBRATION_FRAMES = 16, 64
RATE_EPISODES = 4

QNetworkFactory = Callable[[tuple[int, ...], int], nn.Module]
"""(input shape, number of actions) -> torch module of Q-values; pixels come as floats 0...255."""


class Interrupted(Exception):
    """Training was asked to stop; what was reached is saved in the run's folder."""


@dataclass(frozen=True)
class _Stage:
    """Name and place of a stage in the run; its randomness follows from both."""

    name: str
    index: int
    config: LearnerConfig
    timesteps: int = 1


class Run:
    """Trains all stages of one configuration into `folder`.

    Args:
        config: validated configuration.
        folder: created; stages are saved in it as they finish.
        monitor: sees progress and may stop the run.
        command: how to reproduce the run, for the agents' cards.
        q_network: builds the ANN; by default an MLP or the Nature CNN.

    Raises:
        UnsupportedEnvironment, SnnRlError: before anything is trained.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        monitor: Monitor,
        *,
        command: str = "snn_rl.train(...)",
        q_network: QNetworkFactory | None = None,
    ) -> None:
        self.config, self.folder, self.monitor, self.command = config, folder, monitor, command
        self.q_network = q_network
        self.spec = check_spaces(config.env)
        self.pipeline = pipeline_for(self.spec)
        self.conditions = Conditions(config.flicker, config.sticky, config.maxpool)
        self.task = Task(
            config.env, self.pipeline, self.spec.num_actions, config.seed, self.conditions
        )
        self.device = _device(config.device, self.pipeline.pixels)
        self.given_teacher = self._load_teacher()

    def train(self) -> dict[str, Agent]:
        """Train every stage; agents by stage name.

        Raises:
            Interrupted: the monitor asked to stop; finished stages and the current one are saved.
        """
        config = self.config
        torch.set_num_threads(config.threads)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.yaml", yaml.safe_dump(config.model_dump()))
        stages: dict[str, Agent] = {}
        teacher = self._teacher()
        ann_policy = Policy(self._build_ann(self.pipeline.frame_shape, config.stack))
        ann = self._train(_Stage("ann", 1, config.ann), ann_policy, teacher)
        stages["ann"] = ann
        labeller = teacher or ann.policy

        def train(network: Network, timesteps: int) -> Network:
            policy = Policy(network, timesteps, config.carry_membrane)
            stage = _Stage(f"T{timesteps}", 1 + timesteps, config.spiking, timesteps)
            agent = self._train(stage, policy, labeller)
            stages[stage.name] = agent
            return agent.policy.network

        if not config.stages():
            return stages
        spiking = self._convert(ann.policy, labeller)
        for _ in temporal_pruning(
            spiking, config.stages(), train, self._rates, rescale_leak=config.rescale_leak
        ):
            pass
        return stages

    def _load_teacher(self) -> Policy | None:
        """A saved agent that was named as teacher."""
        name = self.config.teacher
        if name in ("self", "full_state") or teacher_stack(name):
            return None
        agent = load_agent(name)
        if agent.num_actions != self.spec.num_actions:
            raise SnnRlError(
                f"teacher {name} has {agent.num_actions} actions; {self.config.env} has "
                f"{self.spec.num_actions}"
            )
        if not agent.policy.privileged and agent.pipeline != self.pipeline:
            raise SnnRlError(f"teacher {name} does not see what {self.config.env} shows")
        return agent.policy

    def _teacher(self) -> Policy | None:
        """Who labels frames, if not this run's ANN; trained first where it is not given."""
        name = self.config.teacher
        if self.given_teacher is not None or name == "self":
            return self.given_teacher
        stage = _Stage("teacher", 0, self.config.privileged)
        stack = teacher_stack(name)
        if stack:
            policy = Policy(self._build_ann(self.pipeline.frame_shape, stack))
        else:
            policy = Policy(self._build_ann(self._full_state_shape(), 1), privileged=True)
        return self._train(stage, policy, None).policy

    def _full_state_shape(self) -> tuple[int, ...]:
        vector = self.conditions.make_vector(self.config.env, 1, 0)
        try:
            _, info = vector.reset()
            state = full_state(info, self.config.env)
            return tuple(state.shape[1:])
        finally:
            vector.close()

    def _build_ann(self, shape: tuple[int, ...], stack: int) -> Network:
        """Freshly initialised ANN that sees `stack` frames of `shape`."""
        torch.manual_seed(self.config.seed)
        pixels = len(shape) == 3
        stacked = (shape[0] * stack, *shape[1:])
        if self.q_network is not None and shape == self.pipeline.frame_shape:
            module = self.q_network(stacked, self.spec.num_actions)
        elif pixels:
            module = _Pixels(nature_cnn(stacked[0], shape[1], self.spec.num_actions))
        else:
            module = mlp(stacked[0], self.config.hidden, self.spec.num_actions)
        network = trace(module, shape, pixels=pixels, stack=stack)
        if pixels:  # convolutions are about a third faster in this layout
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.to(self.device)

    def _convert(self, ann: Policy, labeller: Policy) -> Network:
        """Spiking network from the ANN, balanced on real roll-outs."""
        config, neurons = self.config, self.config.neurons
        options = NeuronOptions(
            threshold=neurons.threshold,
            leak=neurons.leak,
            leak_low=neurons.leak_low,
            leak_high=neurons.leak_high,
            percentile=neurons.percentile,
            surrogate=Surrogate(neurons.surrogate, neurons.gamma),
        )
        return convert(
            ann.network,
            self._calibration(ann, labeller),
            timesteps=config.timesteps,
            carry_membrane=config.carry_membrane,
            options=options,
        )

    def _calibration(self, ann: Policy, labeller: Policy) -> Calibration:
        """Frames of play, half of the actions the labeller's."""
        seed = _seed(self.config.seed, 99)
        vector = self.conditions.make_vector(self.config.env, CALIBRATION_ENVS, seed)
        replay = SegmentReplay(
            CALIBRATION_ENVS,
            CALIBRATION_FRAMES,
            self.pipeline.frame_shape,
            pixels=self.pipeline.pixels,
            teacher_actions=self.spec.num_actions,
        )
        try:
            rollout = Rollout(
                vector,
                self.config.env,
                self.pipeline,
                ann,
                labeller,
                np.random.default_rng(seed),
            )
            rollout.collect(replay, CALIBRATION_FRAMES, Exploration(0.05, 0.5))
        finally:
            vector.close()
        segment = replay.newest(CALIBRATION_FRAMES, None)
        return Calibration(torch.from_numpy(segment.frames), torch.from_numpy(segment.start))

    def _rates(self, network: Network, timesteps: int) -> Mapping[str, float]:
        """Spike rates per layer on a few validation episodes."""
        policy = Policy(network, timesteps, self.config.carry_membrane)
        seeds = validation_seeds(self.config.seed, RATE_EPISODES)
        played = evaluate(policy, self.config.env, self.pipeline, seeds, self.conditions)
        return played.spike_rates

    def _train(self, stage: _Stage, policy: Policy, teacher: Policy | None) -> Agent:
        result = train_stage(
            stage.name,
            policy,
            self.task,
            stage.config,
            self.config.validation,
            teacher,
            self.monitor,
            stage_seed=_seed(self.config.seed, stage.index),
        )
        policy = replace(policy, network=result.network)
        agent = Agent(policy, self.pipeline, self._card(stage, result, teacher))
        if result.interrupted:
            agent.save(self.folder / "interrupted" / stage.name)
            raise Interrupted(stage.name)
        agent.save(self.folder / stage.name)
        if self.config.validation.target is not None and not result.target_reached:
            log.warning(
                "stage %s used up its %d steps; its best validation mean is %.1f",
                stage.name,
                result.steps,
                result.validation,
            )
        return agent

    def _card(self, stage: _Stage, result: Result, teacher: Policy | None) -> dict[str, Any]:
        distils = max(stage.config.distill) > 0 and teacher is not None
        return {
            "stage": stage.name,
            "environment": {"env_id": self.config.env, "num_actions": self.spec.num_actions},
            "teacher": self.config.teacher if distils else None,
            "provenance": {
                "command": self.command,
                "seed": self.config.seed,
                "steps": result.steps,
                "updates": result.updates,
                "seconds": round(result.seconds, 1),
                "date": datetime.now(UTC).date().isoformat(),
                "hardware": hardware(self.device),
                "versions": {
                    name: metadata.version(name) for name in ("snn-rl", "torch", "gymnasium")
                },
            },
            "results": {"validation": round(result.validation, 2)},
        }


class _Pixels(nn.Module):
    """Scales raw pixels to 0...1 for a network that expects them so."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x / 255)
        return result


def hardware(device: torch.device) -> str:
    """The processor that trains, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def new_run_folder(root: Path, env_id: str) -> Path:
    """A fresh folder for a run, named by environment and time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parent = root / env_id.replace("/", "-")
    folder, count = parent / stamp, 1
    while folder.exists():
        folder, count = parent / f"{stamp}-{count}", count + 1
    return folder


def _seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] >> 1)


def _device(name: str, pixels: bool) -> torch.device:
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
