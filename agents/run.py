"""A whole run: teacher, ANN, conversion, then spiking stages from T down to 1, each one saved."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from snn_rl.agents.agent import Agent, load_agent
from snn_rl.agents.calibration import play_for_calibration
from snn_rl.agents.card import provenance
from snn_rl.agents.config import LearnerConfig, TrainConfig, teacher_stack
from snn_rl.agents.evaluation import Conditions, evaluate, validation_seeds
from snn_rl.agents.policy import Policy, full_state
from snn_rl.agents.qnetwork import QNetworkFactory, build_network
from snn_rl.agents.training import Monitor, Result, StageTrainer, Task
from snn_rl.checkpoint import write_text
from snn_rl.conversion import NeuronOptions, convert
from snn_rl.envs import check_spaces
from snn_rl.envs.observation import pipeline_for
from snn_rl.errors import SnnRlError
from snn_rl.network import Network
from snn_rl.neuron import Surrogate
from snn_rl.pruning import temporal_pruning

log = logging.getLogger(__name__)

CALIBRATION = 1_000_000  # place of the calibration among the stages' seeds
RATE_EPISODES = 4


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
        ann = self._train(
            _Stage("ann", 1, config.ann),
            self._build_ann(self.pipeline.frame_shape, config.stack),
            teacher,
        )
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
        stack = teacher_stack(name)
        shape = self.pipeline.frame_shape if stack else self._full_state_shape()
        policy = replace(self._build_ann(shape, stack or 1), privileged=not stack)
        return self._train(_Stage("teacher", 0, self.config.privileged), policy, None).policy

    def _full_state_shape(self) -> tuple[int, ...]:
        vector = self.conditions.make_vector(self.config.env, 1, 0)
        try:
            _, info = vector.reset()
            state = full_state(info, self.config.env)
            return tuple(state.shape[1:])
        finally:
            vector.close()

    def _build_ann(self, shape: tuple[int, ...], stack: int) -> Policy:
        """Policy of a freshly initialised ANN that sees `stack` frames of `shape`."""
        torch.manual_seed(self.config.seed)
        own = shape == self.pipeline.frame_shape
        network = build_network(
            shape,
            self.spec.num_actions,
            stack=stack,
            hidden=self.config.hidden,
            factory=self.q_network if own else None,
        )
        return Policy(network.to(self.device))

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
            play_for_calibration(ann, labeller, self.task, _seed(config.seed, CALIBRATION)),
            timesteps=config.timesteps,
            carry_membrane=config.carry_membrane,
            options=options,
        )

    def _rates(self, network: Network, timesteps: int) -> Mapping[str, float]:
        """Spike rates per layer on a few validation episodes."""
        policy = Policy(network, timesteps, self.config.carry_membrane)
        seeds = validation_seeds(self.config.seed, RATE_EPISODES)
        played = evaluate(policy, self.config.env, self.pipeline, seeds, self.conditions)
        return played.spike_rates

    def _train(self, stage: _Stage, policy: Policy, teacher: Policy | None) -> Agent:
        trainer = StageTrainer(
            stage.name,
            policy,
            self.task,
            stage.config,
            self.config.validation,
            teacher,
            self.monitor,
            stage_seed=_seed(self.config.seed, stage.index),
        )
        result = trainer.run()
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
            "provenance": provenance(self.command, self.config.seed, result, self.device),
            "results": {"validation": round(result.validation, 2)},
        }


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
