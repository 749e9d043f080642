"""What a run's configuration stands for: environment, device, agents it starts from, networks.

Whatever does not fit shows when a `Setup` is made, before anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from snn_rl.agents.agent import Agent
from snn_rl.agents.calibration import play_for_calibration
from snn_rl.agents.conditions import Conditions, tell_of_limit
from snn_rl.agents.config import TrainConfig, teacher_stack
from snn_rl.agents.dqn.validation import Task
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.policy import Policy, full_state
from snn_rl.agents.qnetwork import QNetworkFactory, build_network
from snn_rl.agents.seeds import validation_seeds
from snn_rl.agents.sources import choose_device, load_start, load_teacher, observed
from snn_rl.conversion.convert import check_convertible, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.core.network import Network
from snn_rl.core.surrogates import Surrogate
from snn_rl.envs import check_spaces
from snn_rl.envs.observation import measure_background

CALIBRATION = 1_000_000  # place of the calibration among the stages' seeds
RATE_EPISODES, RATE_FRAMES = 4, 500


class Setup:
    """Everything that a run needs before its first stage.

    Args:
        q_network: builds the ANN; by default an MLP or the Nature CNN.
        surrogate: gradient of the spikes, instead of the configuration's.

    Attributes:
        spec, pipeline, task: the environment, and how it is seen.
        background: most frequent pixel value, 0 for vectors.
        device: where networks are trained.
        teacher: the saved agent that labels frames, if one was named.
        start: the saved agent that the run starts from, if one was named.

    Raises:
        UnsupportedEnvironment, SnnRlError: something does not fit.
    """

    def __init__(
        self,
        config: TrainConfig,
        q_network: QNetworkFactory | None = None,
        surrogate: Surrogate | None = None,
    ) -> None:
        self.config, self.q_network, self.surrogate = config, q_network, surrogate
        self.spec = check_spaces(config.env, config.env_kwargs)
        self.pipeline = observed(config, self.spec)
        if q_network is not None:  # its weights may come from where nothing was scaled
            self.pipeline = replace(self.pipeline, scale=())
        self.background = 0
        if self.pipeline.pixels:
            self.background = measure_background(config.env, self.pipeline, config.env_kwargs)
        conditions = Conditions(
            config.flicker, config.sticky, config.maxpool, config.fire_reset, config.env_kwargs
        )
        conditions.make_vector(config.env, 1, config.seed).close()  # whether they fit it
        self.task = Task(config.env, self.pipeline, self.spec.num_actions, config.seed, conditions)
        if config.validation.max_frames is None:
            tell_of_limit(config.env, "--set validation.max_frames=N")
        self.device = choose_device(config.device, self.pipeline.pixels)
        self.teacher = load_teacher(config, self.spec, self.pipeline)
        self.start = load_start(config, self.spec, self.pipeline)
        if self.start is not None:
            self.prepare(self.start)
        self._check_networks()

    def prepare(self, agent: Agent) -> Agent:
        """A saved agent on the run's device, with the surrogate that it is trained on with.

        Raises:
            SnnRlError: its own surrogate is not known here.
        """
        agent.to(self.device)
        network = agent.policy.network
        if network.spiking and self.surrogate is not None:
            network.surrogate = self.surrogate
        elif network.spiking:
            network.surrogate(torch.ones(1))  # raises where it is unknown
        return agent

    def build_ann(self, stack: int) -> Policy:
        """Policy of a freshly initialised ANN that sees `stack` frames."""
        return self._build(self.pipeline.frame_shape, stack, self.q_network, self.config.width)

    def build_teacher(self) -> Policy:
        """Policy of a freshly initialised ANN that sees what a teacher sees: several frames, or
        the environment's full state."""
        stack = teacher_stack(self.config.teacher)
        if stack is not None:
            return self._build(self.pipeline.frame_shape, stack, self.q_network)
        shape = self._full_state_shape()
        own = self.q_network if shape == self.pipeline.frame_shape else None
        policy = self._build(shape, 1, own)
        policy.privileged = True
        return policy

    def convert(self, ann: Policy, labeller: Policy) -> Network:
        """Spiking network from the ANN for the first spiking stage, balanced on real roll-outs."""
        config, neurons = self.config, self.config.neurons
        options = NeuronOptions(
            threshold=neurons.threshold,
            leak=neurons.leak,
            leak_low=neurons.leak_low,
            leak_high=neurons.leak_high,
            percentile=neurons.percentile,
            kind=neurons.kind,
            adaptation=neurons.adaptation,
            adaptation_leak=neurons.adaptation_leak,
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

    def spike_rates(self, network: Network, timesteps: int) -> Mapping[str, float]:
        """Spikes per neuron and frame, by layer, at the beginning of a few validation episodes."""
        policy = Policy(network, timesteps, self.config.carry_membrane)
        seeds = validation_seeds(self.config.seed, RATE_EPISODES)
        task = self.task
        played = evaluate(
            policy, task.env_id, task.pipeline, seeds, task.conditions, max_frames=RATE_FRAMES
        )
        return played.spike_rates

    def _check_networks(self) -> None:
        """Refuse networks that do not fit or cannot become spiking before any is trained."""
        if self.teacher is None and self.config.teacher != "self":
            self.build_teacher()
        ann = (self.start.policy if self.start else self.build_ann(self.config.stack)).network
        if self.config.stages() and not ann.spiking:
            check_convertible(ann)

    def _build(
        self,
        shape: tuple[int, ...],
        stack: int,
        factory: QNetworkFactory | None,
        width: float = 1.0,
    ) -> Policy:
        torch.manual_seed(self.config.seed)
        network = build_network(
            shape,
            self.spec.num_actions,
            stack=stack,
            hidden=self.config.hidden,
            width=width,
            offset=self.background,
            factory=factory,
        )
        return Policy(network.to(self.device))

    def _full_state_shape(self) -> tuple[int, ...]:
        vector = self.task.conditions.make_vector(self.config.env, 1, 0)
        try:
            _, info = vector.reset()
            state = full_state(info, self.config.env)
            return tuple(state.shape[1:])
        finally:
            vector.close()


def stage_seed(seed: int, index: int) -> int:
    """Seed of the run's part `index`; 0 is the privileged teacher, 1 the ANN."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] >> 1)
