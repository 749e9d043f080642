"""A whole run: teacher, ANN, conversion, then spiking stages from T down to 1, each one saved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from snn_rl.agents.agent import Agent
from snn_rl.agents.config import LearnerConfig, TrainConfig, read_config
from snn_rl.agents.dqn.plan import StagePlan
from snn_rl.agents.dqn.stage import Result, StageTrainer
from snn_rl.agents.loading import load_agent
from snn_rl.agents.monitor import Monitor
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import QNetworkFactory
from snn_rl.agents.setup import Setup, stage_seed
from snn_rl.conversion.temporal_pruning import Start, temporal_pruning
from snn_rl.core.network import Network
from snn_rl.core.surrogates import Surrogate
from snn_rl.runs.folder import Interrupted, begin, held, holds, keep, lasting
from snn_rl.runs.owner import own
from snn_rl.runs.provenance import hardware, written
from snn_rl.runs.resume import RESUME, Saver, discard

log = logging.getLogger(__name__)


class Run:
    """Trains all stages of one configuration into `folder`; those that it holds are loaded.

    An interrupted stage continues exactly where it was saved last.

    Args:
        config: validated configuration.
        folder: created; stages are saved in it as they finish (see snn_rl.runs.folder).
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
        self.fresh = fresh
        self.setup = Setup(config, q_network, surrogate)

    def train(self) -> dict[str, Agent]:
        """Train every stage; agents by stage name.

        Raises:
            Interrupted: the monitor asked to stop; finished stages and the current one are saved.
            SnnRlError: another process trains in the folder, or it holds another run.
        """
        torch.set_num_threads(self.config.threads)
        with own(self.folder) as self.owner:
            begin(self.folder, self.config, self.command, read_config, self.fresh)
            agents = self._train_stages()
            discard(self.folder / RESUME)
            return agents

    def _train_stages(self) -> dict[str, Agent]:
        agents: dict[str, Agent] = {}
        teacher, start = self._teacher(), self.setup.start
        if start is None or not start.policy.network.spiking:
            agents["ann"] = self._ann(start, teacher)
        labeller = teacher or (agents["ann"].policy if agents else None)
        schedule = self.config.stages()
        done = held(self.folder, schedule)
        for t in done:
            agents[f"T{t}"] = self._load(f"T{t}")
        remaining = schedule[len(done) :]
        if not remaining:
            return agents
        network = agents[f"T{done[-1]}"].policy.network if done else None
        for stage in temporal_pruning(
            network or self._first_spiking(agents, labeller),
            remaining,
            partial(self._train_spiking, labeller),
            self.setup.spike_rates,
            rescale_leak=self.config.rescale_leak,
        ):
            name = f"T{stage.timesteps}"
            agents[name] = self._load(name)
        return agents

    def _stage(self, name: str, train: Callable[[], Agent]) -> Agent:
        """The stage that the folder holds, or that is trained now."""
        return self._load(name) if holds(self.folder, name) else train()

    def _load(self, name: str) -> Agent:
        return self.setup.prepare(load_agent(self.folder / name, "torch"))

    def _teacher(self) -> Policy | None:
        """Who labels frames, if not this run's ANN; trained first where it is not named."""
        if self.setup.teacher is not None or self.config.teacher == "self":
            return self.setup.teacher

        def train() -> Agent:
            plan = self._plan("teacher", 0, self.setup.build_teacher(), self.config.privileged)
            return self._train(plan)

        return self._stage("teacher", train).policy

    def _ann(self, start: Agent | None, teacher: Policy | None) -> Agent:
        """The ANN, from its initial weights or those of `start`."""
        if start is not None and self.config.ann.steps == 0:
            if start.imported and not holds(self.folder, "ann"):
                start.save(self.folder / "ann")
            return start

        def train() -> Agent:
            policy = self.setup.build_ann(self.config.stack)
            if start is not None:
                policy = replace(policy, network=start.policy.network)
            return self._train(self._plan("ann", 1, policy, self.config.ann, teacher))

        return self._stage("ann", train)

    def _first_spiking(self, agents: dict[str, Agent], labeller: Policy | None) -> Network:
        """The converted ANN, or the spiking network that the run starts from."""
        if "ann" in agents:
            ann = agents["ann"].policy
            return self.setup.convert(ann, labeller or ann)
        assert self.setup.start is not None
        network = self.setup.start.policy.network.clone()
        network.carry_membrane = self.config.carry_membrane
        return network

    def _train_spiking(self, labeller: Policy | None, start: Start) -> Network:
        t = start.timesteps
        policy = Policy(start.network, t, self.config.carry_membrane)
        plan = self._plan(f"T{t}", 1 + t, policy, self.config.spiking.at(t), labeller)
        return self._train(plan).policy.network

    def _plan(
        self,
        name: str,
        index: int,
        policy: Policy,
        config: LearnerConfig,
        teacher: Policy | None = None,
    ) -> StagePlan:
        """Plan of a stage; `index` is its place among the run's seeds."""
        seed = stage_seed(self.config.seed, index)
        return StagePlan(
            name, policy, self.setup.task, config, self.config.validation, seed, teacher
        )

    def _train(self, plan: StagePlan) -> Agent:
        """Train and save a stage.

        Raises:
            Interrupted: the monitor asked to stop.
        """
        config, check = self.config, self.owner.check
        saver = Saver(self.folder / RESUME, config.save_every, check, lasting(config))
        result = StageTrainer(plan, self.monitor, saver).run()
        self.owner.check()
        policy = replace(plan.policy, network=result.network)
        agent = Agent(policy, self.setup.pipeline, self._card(plan, result))
        keep(self.folder, plan.name, agent.save, interrupted=result.interrupted)
        if result.interrupted:
            raise Interrupted(plan.name)
        self._report_failure(plan, result)
        if self.monitor.should_stop() and plan.name != self.config.stage_names()[-1]:
            raise Interrupted(plan.name)
        return agent

    def _report_failure(self, plan: StagePlan, result: Result) -> None:
        if plan.validation.target is not None and not result.target_reached:
            log.warning(
                "stage %s used up its %d steps; its best validation mean is %.1f",
                plan.name,
                result.steps,
                result.validation,
            )

    def _card(self, plan: StagePlan, result: Result) -> dict[str, Any]:
        distils = max(plan.config.distill) > 0 and plan.teacher is not None
        return {
            "stage": plan.name,
            "environment": {
                "env_id": self.config.env,
                "num_actions": self.setup.spec.num_actions,
                "maxpool": self.config.maxpool,
                "fire_reset": self.config.fire_reset,
                **self._env_kwargs(),
            },
            "teacher": self.config.teacher if distils else None,
            "provenance": {
                "command": self.command,
                "seed": self.config.seed,
                "validation": self._validated(),
                "steps": result.steps,
                "updates": result.updates,
                "seconds": round(result.seconds, 1),
                **hardware(self.setup.device),
                **written(),
            },
            "results": {"validation": round(result.validation, 2), **result.play},
        }

    def _env_kwargs(self) -> dict[str, Any]:
        """As the card has them: nothing where there are none."""
        kwargs = dict(self.config.env_kwargs)
        return {"env_kwargs": kwargs} if kwargs else {}

    def _validated(self) -> dict[str, int]:
        """Which games chose the weights: see `validation_seeds`."""
        validation = self.config.validation
        confirm = validation.confirm if validation.target is not None else 0
        return {"seed": self.config.seed, "episodes": validation.episodes, "confirm": confirm}
