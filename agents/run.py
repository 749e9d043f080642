"""A whole run: teacher, ANN, conversion, then spiking stages from T down to 1, each one saved.

config.yaml            the resolved configuration
teacher/ ann/ T5/ …    finished stages, each an agent by itself
interrupted/T3/        the best of a stage that was stopped
resume/                what an exact resume of the current stage needs
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from snn_rl.agents.agent import Agent
from snn_rl.agents.calibration import play_for_calibration
from snn_rl.agents.config import LearnerConfig, TrainConfig, teacher_stack
from snn_rl.agents.dqn.stage import Result, StageTrainer
from snn_rl.agents.dqn.validation import Task
from snn_rl.agents.evaluation import Conditions, evaluate
from snn_rl.agents.loading import load_agent
from snn_rl.agents.monitor import Monitor
from snn_rl.agents.policy import Policy, full_state
from snn_rl.agents.qnetwork import QNetworkFactory, build_network
from snn_rl.agents.seeds import validation_seeds
from snn_rl.agents.sources import choose_device, load_start, load_teacher, observed
from snn_rl.conversion.convert import NeuronOptions, check_convertible, convert
from snn_rl.conversion.temporal_pruning import rescale_leaks, temporal_pruning
from snn_rl.core.network import Network
from snn_rl.core.surrogates import Surrogate
from snn_rl.envs import check_spaces
from snn_rl.envs.observation import measure_background
from snn_rl.errors import SnnRlError
from snn_rl.runs.checkpoint import CARD, write_text
from snn_rl.runs.owner import Owner, own
from snn_rl.runs.provenance import hardware, written
from snn_rl.runs.resume import RESUME, Saver

log = logging.getLogger(__name__)

CALIBRATION = 1_000_000  # place of the calibration among the stages' seeds
RATE_EPISODES, RATE_FRAMES = 4, 500
CONFIG, HEADER = "config.yaml", "# "
INTERRUPTED = "interrupted"
FREE = {"save_every", "device", "threads"}
"""Settings that may change before a run is gone on with."""


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

    A folder that holds a part of the run already is gone on with: finished stages are loaded, an
    interrupted one continues exactly where it was saved last.

    Args:
        config: validated configuration.
        folder: created; stages are saved in it as they finish.
        monitor: sees progress and may stop the run.
        command: how to reproduce the run, for the agents' cards.
        q_network: builds the ANN; by default an MLP or the Nature CNN.
        surrogate: gradient of the spikes, instead of the configuration's.
        fresh: the folder must not hold a run yet.

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
        surrogate: Surrogate | None = None,
        fresh: bool = False,
    ) -> None:
        self.config, self.folder, self.monitor, self.command = config, folder, monitor, command
        self.fresh, self.surrogate = fresh, surrogate
        self.q_network = q_network
        self.spec = check_spaces(config.env)
        self.pipeline = observed(config, self.spec)
        self.background = 0
        if self.pipeline.pixels:
            self.background = measure_background(config.env, self.pipeline)
        self.conditions = Conditions(config.flicker, config.sticky, config.maxpool)
        self.conditions.make_vector(config.env, 1, config.seed).close()  # whether they fit it
        self.task = Task(
            config.env, self.pipeline, self.spec.num_actions, config.seed, self.conditions
        )
        self.device = choose_device(config.device, self.pipeline.pixels)
        self.given_teacher = load_teacher(config, self.spec, self.pipeline)
        self.given_start = load_start(config, self.spec, self.pipeline)
        if self.given_start is not None:
            self.given_start.to(self.device)
            self._choose_surrogate(self.given_start.policy.network)
        if config.stages():
            self._check_convertible()

    def train(self) -> dict[str, Agent]:
        """Train every stage; agents by stage name.

        Raises:
            Interrupted: the monitor asked to stop; finished stages and the current one are saved.
            SnnRlError: another process trains in the folder, or it holds a run where none may be.
        """
        torch.set_num_threads(self.config.threads)
        with own(self.folder) as owner:
            if not (self.folder / CONFIG).exists():
                text = yaml.safe_dump(self.config.model_dump())
                write_text(self.folder / CONFIG, f"{HEADER}{self.command}\n{text}")
            elif self.fresh:
                raise SnnRlError(f"{self.folder} already holds a run: choose another --run-dir")
            return self._train_stages(owner)

    def _train_stages(self, owner: Owner) -> dict[str, Agent]:
        self.owner = owner
        stages: dict[str, Agent] = {}
        teacher = self._teacher()
        started = self.given_start
        if started is None or not started.policy.network.spiking:
            stages["ann"] = self._train_ann(teacher)
        labeller = teacher or (stages["ann"].policy if stages else None)
        if self.config.stages():
            self._train_spiking(stages, labeller)
        shutil.rmtree(self.folder / RESUME, ignore_errors=True)
        return stages

    def _train_ann(self, teacher: Policy | None) -> Agent:
        config = self.config
        stage = _Stage("ann", 1, config.ann)
        policy = self.build_ann(self.pipeline.frame_shape, config.stack)
        if self.given_start is not None:
            policy = replace(policy, network=self.given_start.policy.network)
            if config.ann.steps == 0:
                if self.given_start.imported and not self._finished(stage.name):
                    self.given_start.save(self.folder / stage.name)
                return self.given_start
        return self._train(stage, policy, teacher)

    def _train_spiking(self, stages: dict[str, Agent], labeller: Policy | None) -> None:
        """Train the spiking stages that `stages` lacks and add them to it."""
        config = self.config

        def train(network: Network, timesteps: int) -> Network:
            policy = Policy(network, timesteps, config.carry_membrane)
            stage = _Stage(f"T{timesteps}", 1 + timesteps, config.spiking.at(timesteps), timesteps)
            agent = self._train(stage, policy, labeller)
            stages[stage.name] = agent
            return agent.policy.network

        timesteps = config.stages()
        done = [t for t in timesteps if (self.folder / f"T{t}" / CARD).exists()]
        for t in done:
            stages[f"T{t}"] = load_agent(self.folder / f"T{t}", "torch").to(self.device)
        if done:  # the last of them goes first, as the one to go on from
            network, timesteps = stages[f"T{done[-1]}"].policy.network, timesteps[len(done) - 1 :]
            self._choose_surrogate(network)
        else:
            network = self._first_spiking(stages, labeller)
        for _ in temporal_pruning(
            network, timesteps, train, self._rates, rescale_leak=config.rescale_leak
        ):
            pass

    def _choose_surrogate(self, network: Network) -> None:
        """Give a saved spiking network the surrogate that it is trained on with.

        Raises SnnRlError where its own is not known here.
        """
        if self.surrogate is not None:
            network.surrogate = self.surrogate
        elif network.spiking:
            network.surrogate(torch.ones(1))

    def _first_spiking(self, stages: dict[str, Agent], labeller: Policy | None) -> Network:
        """The converted ANN, or the spiking network that the run starts from."""
        if "ann" in stages:
            ann = stages["ann"].policy
            return self.convert_ann(ann, labeller or ann)
        assert self.given_start is not None
        network = self.given_start.policy.network.clone()
        if self.config.rescale_leak:
            rescale_leaks(network, self.given_start.timesteps, self.config.timesteps)
        network.carry_membrane = self.config.carry_membrane
        return network

    def _check_convertible(self) -> None:
        """Refuse a user's ANN that cannot become spiking before it is trained."""
        start = self.given_start
        if start is None and self.q_network is not None:
            ann = self.build_ann(self.pipeline.frame_shape, self.config.stack).network
            check_convertible(ann)
        elif start is not None and not start.policy.network.spiking:
            check_convertible(start.policy.network)

    def _finished(self, name: str) -> Agent | None:
        """A stage that the folder holds already."""
        folder = self.folder / name
        return load_agent(folder, "torch").to(self.device) if (folder / CARD).exists() else None

    def _teacher(self) -> Policy | None:
        """Who labels frames, if not this run's ANN; trained first where it is not given."""
        name = self.config.teacher
        if self.given_teacher is not None or name == "self":
            return self.given_teacher
        stack = teacher_stack(name)
        shape = self.pipeline.frame_shape if stack else self._full_state_shape()
        policy = replace(self.build_ann(shape, stack or 1), privileged=not stack)
        return self._train(_Stage("teacher", 0, self.config.privileged), policy, None).policy

    def _full_state_shape(self) -> tuple[int, ...]:
        vector = self.conditions.make_vector(self.config.env, 1, 0)
        try:
            _, info = vector.reset()
            state = full_state(info, self.config.env)
            return tuple(state.shape[1:])
        finally:
            vector.close()

    def build_ann(self, shape: tuple[int, ...], stack: int) -> Policy:
        """Policy of a freshly initialised ANN that sees `stack` frames of `shape`."""
        torch.manual_seed(self.config.seed)
        own = shape == self.pipeline.frame_shape
        network = build_network(
            shape,
            self.spec.num_actions,
            stack=stack,
            hidden=self.config.hidden,
            offset=self.background,
            factory=self.q_network if own else None,
        )
        return Policy(network.to(self.device))

    def convert_ann(self, ann: Policy, labeller: Policy) -> Network:
        """Spiking network from the ANN for the first spiking stage, balanced on real roll-outs."""
        config, neurons = self.config, self.config.neurons
        options = NeuronOptions(
            threshold=neurons.threshold,
            leak=neurons.leak,
            leak_low=neurons.leak_low,
            leak_high=neurons.leak_high,
            percentile=neurons.percentile,
            balance=neurons.balance,
            start=neurons.start,
            surrogate=self.surrogate or Surrogate(neurons.surrogate, neurons.gamma),
        )
        return convert(
            ann.network,
            play_for_calibration(ann, labeller, self.task, stage_seed(config.seed, CALIBRATION)),
            timesteps=config.timesteps,
            carry_membrane=config.carry_membrane,
            options=options,
        )

    def _rates(self, network: Network, timesteps: int) -> Mapping[str, float]:
        """Spike rates per layer at the beginning of a few validation episodes."""
        policy = Policy(network, timesteps, self.config.carry_membrane)
        seeds = validation_seeds(self.config.seed, RATE_EPISODES)
        task = self.task
        played = evaluate(
            policy, task.env_id, task.pipeline, seeds, task.conditions, max_frames=RATE_FRAMES
        )
        return played.spike_rates

    def _train(self, stage: _Stage, policy: Policy, teacher: Policy | None) -> Agent:
        if finished := self._finished(stage.name):
            return finished
        trainer = StageTrainer(
            stage.name,
            policy,
            self.task,
            stage.config,
            self.config.validation,
            teacher,
            self.monitor,
            stage_seed=stage_seed(self.config.seed, stage.index),
            saver=Saver(
                self.folder / RESUME, self.config.save_every, self.owner.check, self._settings()
            ),
        )
        result = trainer.run()
        self.owner.check()
        policy = replace(policy, network=result.network)
        agent = Agent(policy, self.pipeline, self._card(stage, result, teacher))
        if result.interrupted:
            agent.save(self.folder / INTERRUPTED / stage.name)
            raise Interrupted(stage.name)
        agent.save(self.folder / stage.name)
        for left_over in (RESUME, INTERRUPTED):
            shutil.rmtree(self.folder / left_over, ignore_errors=True)
        self._report_failure(stage, result)
        if self.monitor.should_stop():
            raise Interrupted(stage.name)
        return agent

    def _settings(self) -> dict[str, Any]:
        """Those that a resume must find as they were: JSON, as it is read back."""
        found: dict[str, Any] = json.loads(self.config.model_dump_json(exclude=FREE))
        return found

    def _report_failure(self, stage: _Stage, result: Result) -> None:
        if self.config.validation.target is not None and not result.target_reached:
            log.warning(
                "stage %s used up its %d steps; its best validation mean is %.1f",
                stage.name,
                result.steps,
                result.validation,
            )

    def _card(self, stage: _Stage, result: Result, teacher: Policy | None) -> dict[str, Any]:
        distils = max(stage.config.distill) > 0 and teacher is not None
        return {
            "stage": stage.name,
            "environment": {
                "env_id": self.config.env,
                "num_actions": self.spec.num_actions,
                "maxpool": self.config.maxpool,
            },
            "teacher": self.config.teacher if distils else None,
            "provenance": {
                "command": self.command,
                "seed": self.config.seed,
                "validation": self._validated(),
                "steps": result.steps,
                "updates": result.updates,
                "seconds": round(result.seconds, 1),
                **hardware(self.device),
                **written(),
            },
            "results": {"validation": round(result.validation, 2)},
        }

    def _validated(self) -> dict[str, int]:
        """Which games chose the weights: see `validation_seeds`."""
        validation = self.config.validation
        confirm = validation.confirm if validation.target is not None else 0
        return {"seed": self.config.seed, "episodes": validation.episodes, "confirm": confirm}


def stage_seed(seed: int, index: int) -> int:
    """Seed of the run's part `index`; 0 is the privileged teacher, 1 the ANN."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] >> 1)
