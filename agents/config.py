"""Typed, validated configuration of a training run. Unknown keys and wrong types are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from snn_rl.agents.seeds import BLOCKS, VALIDATIONS
from snn_rl.conversion.options import Kind
from snn_rl.conversion.temporal_pruning import schedule
from snn_rl.core.operations import Granularity
from snn_rl.core.surrogates import Shipped
from snn_rl.errors import ConfigError, SnnRlError
from snn_rl.inference.checks import MOST_TIMESTEPS
from snn_rl.support.settings import Section, WholeKey, read_yaml, validate


class NeuronConfig(Section):
    """The neurons and how conversion initialises them."""

    kind: Kind = "lif"
    """leaky integrate-and-fire, or the same with a threshold that every spike raises; only torch
    runs the second"""
    threshold: Granularity = "layer"
    """one trainable threshold per layer, channel or neuron"""
    leak: Granularity = "neuron"
    """one trainable leak per layer, channel or neuron"""
    leak_low: float = Field(default=0.02, ge=0, le=1)
    """what membranes keep from frame to frame (leak ** timesteps) starts spread from here ..."""
    leak_high: float = Field(default=0.98, ge=0, le=1)
    """... to here, so that fast and slow membranes lie side by side"""
    percentile: float = Field(default=80.0, gt=0, le=100)
    """of the positive membranes on calibration data: the starting threshold"""
    adaptation: float = Field(default=0.1, ge=0)
    """of adaptive neurons: the share of the threshold by which a spike raises it, at the start"""
    adaptation_leak: float = Field(default=0.9, ge=0, le=1)
    """what remains of that from frame to frame at the start"""
    balance: Literal["layer", "channel"] = "layer"
    """one percentile per layer, or per channel (of mean inputs), for use without training"""
    start: float = 0.0
    """thresholds that membranes begin with: 0, or 0.5 for use without training"""
    surrogate: Shipped = "arctan"
    """triangle is the paper's; the arctan's wider slope learns faster from rewards"""
    gamma: float | None = Field(default=None, gt=0)
    """height of the triangle, or steepness of the arctan; unset: the surrogate's own default"""

    @model_validator(mode="after")
    def _consistent(self) -> NeuronConfig:
        if self.leak_low > self.leak_high:
            raise ValueError("leak_low must not exceed leak_high")
        if self.start not in (0.0, 0.5):
            raise ValueError("start is 0 or 0.5")
        if self.balance == "channel" and self.threshold == "layer":
            raise ValueError("balance: channel needs threshold: channel or neuron")
        return self


class LearnerConfig(Section):
    """One training stage: roll-outs, replay, loss weights, optimiser.

    The defaults suit an ANN on vector observations: close to on-policy, with many environments,
    a small replay and long n-step returns (docs/recipe.md).
    """

    steps: int = Field(default=600_000, ge=0)
    """environment steps of the stage at most, over all environments together; 0 for the ANN takes
    the agent that the run starts from as it is"""
    num_envs: int = Field(default=64, gt=0)
    rollout: int = Field(default=16, gt=0)
    """frames per environment between updates"""
    replay: int = Field(default=12_000, ge=0)
    """transitions kept; 0 trains on the newest roll-out alone, from its exact membranes"""
    learning_starts: int = Field(default=4_000, ge=0)
    """environment steps before the first update"""
    overlap: bool = False
    """play the next roll-out while the updates after the last one are made, on a second core"""
    on_grid: bool = False
    """roll-outs play the network as it would be saved, its weights on their grid: a spiking one is
    then event-driven where that is faster, with the same membranes as in torch"""
    updates: int = Field(default=8, gt=0)
    """gradient steps after each roll-out (which they share out, by environment, if replay is 0)"""
    batch: int = Field(default=256, gt=0)
    """segments per update (with replay)"""
    segment: int = Field(default=1, gt=0)
    """frames per segment (with replay) over which gradients flow"""
    burn_in: int = Field(default=0, ge=0)
    """frames before each segment that only build up the membranes"""
    gamma: float = Field(default=0.99, ge=0, lt=1)
    n_step: int = Field(default=32, gt=0)
    double: bool = True
    """targets value the action that the online network takes (double DQN), at the cost of one more
    forward pass, rather than the target network's best one"""
    clip_rewards: bool = False
    """learn from rewards clipped to -1...1 (Atari); scores are never clipped"""
    td: list[float] = Field(default=[1.0, 1.0], min_length=2, max_length=2)
    """weight of the Q-learning loss at the stage's start and end"""
    distill: list[float] = Field(default=[0.0, 0.0], min_length=2, max_length=2)
    """weight of the distillation loss at the stage's start and end"""
    temperature: float = Field(default=1.0, gt=0)
    """of the teacher's and the student's softmax over Q-values"""
    learning_rate: float = Field(default=1e-3, gt=0)
    final_learning_rate: float = Field(default=0.05, ge=0, le=1)
    """fraction of the learning rate left at the end (linear decay)"""
    warmup: int = Field(default=0, ge=0)
    """updates over which the learning rate rises from zero"""
    max_grad_norm: float = Field(default=10.0, gt=0)
    target_every: int = Field(default=40, gt=0)
    """updates between two copies into the target network"""
    epsilon: list[float] = Field(default=[1.0, 0.05], min_length=2, max_length=2)
    """random actions at the stage's start and from `explore` on"""
    explore: float = Field(default=0.2, gt=0, le=1)
    """fraction of the stage over which epsilon falls"""
    epsilon_spread: float = Field(default=0.0, ge=0)
    """environment i of N explores with epsilon ** (1 + epsilon_spread * i / (N - 1)): all kinds of
    play side by side (Ape-X, Horgan et al. 2018, has 7 at epsilon 0.4)"""
    teacher_acts: float = Field(default=0.0, ge=0, le=1)
    """fraction of the stage over which the teacher's share of the actions falls from 1 to 0
    (DAgger, Ross, Gordon and Bagnell 2011)"""
    average: float = Field(default=0.0, ge=0, lt=1)
    """validate and keep a running mean of the weights, of which each update leaves this fraction
    (Polyak and Juditsky 1992); 0 keeps the trained weights themselves"""
    rate_penalty: float = Field(default=0.0, ge=0)
    """weight of the mean spike rate in the loss"""
    amp: bool = False
    """updates compute convolutions and linear layers in bfloat16, which GPUs do faster; membranes
    and thresholds stay in float32"""

    @model_validator(mode="after")
    def _consistent(self) -> LearnerConfig:
        if 0 < self.replay < self.num_envs * (self.burn_in + self.segment + self.n_step + 1):
            raise ValueError("replay is too small for one segment per environment")
        if min(*self.td, *self.distill) < 0:
            raise ValueError("td and distill weights must not be negative")
        if self.replay == 0 and self.updates > self.num_envs:
            raise ValueError("without replay there can be at most one update per environment")
        if max(self.td) == 0 and max(self.distill) == 0:
            raise ValueError("td and distill are both zero: nothing would be learnt")
        if self.replay == 0 and max(self.td) > 0 and self.rollout <= self.n_step:
            raise ValueError("without replay, rollout must exceed n_step")
        if not all(0 <= epsilon <= 1 for epsilon in self.epsilon):
            raise ValueError("epsilon must hold probabilities from 0 to 1")
        return self


class DistillConfig(LearnerConfig):
    """A stage that a teacher labels while the student plays; the default for spiking stages."""

    steps: int = Field(default=400_000, gt=0)
    steps_at: dict[WholeKey, Annotated[int, Field(gt=0)]] | None = None
    """steps of the stage at T, where they differ, e.g. {5: 800000}"""
    num_envs: int = Field(default=32, gt=0)
    rollout: int = Field(default=32, gt=0)
    replay: int = Field(default=0, ge=0)
    learning_starts: int = Field(default=0, ge=0)
    updates: int = Field(default=1, gt=0)
    td: list[float] = Field(default=[0.0, 0.0], min_length=2, max_length=2)
    distill: list[float] = Field(default=[1.0, 1.0], min_length=2, max_length=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup: int = Field(default=20, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    epsilon: list[float] = Field(default=[0.02, 0.02], min_length=2, max_length=2)
    teacher_acts: float = Field(default=0.1, ge=0, le=1)

    def at(self, timesteps: int) -> LearnerConfig:
        """The settings of the stage at T."""
        steps = (self.steps_at or {}).get(timesteps, self.steps)
        return LearnerConfig(**self.model_dump(exclude={"steps_at"}) | {"steps": steps})


class ValidationConfig(Section):
    """Greedy episodes on seeds of their own; they choose the checkpoint and stop the stage."""

    episodes: int = Field(default=64, gt=0, le=VALIDATIONS)
    every: int = Field(default=16_384, gt=0)
    """environment steps between validations"""
    target: float | None = None
    """a stage stops once its validation episodes, and then `confirm` others, average this; without
    it every stage uses up its steps"""
    confirm: int = Field(default=256, gt=0, le=VALIDATIONS)
    """episodes on further seeds that must meet the target too: rare failures show only in many"""
    max_frames: int | None = Field(default=None, gt=0)
    """validation episodes are cut off after so many frames; games between good players can go on
    for ever"""


class TrainConfig(Section):
    """A whole run: ANN, then spiking stages from `timesteps` down to `until`."""

    env: str
    env_kwargs: dict[str, Any] = Field(default={})
    """for the environment's constructor, e.g. {map_name: 8x8}; not of Atari games"""
    seed: int = Field(default=0, ge=0, lt=BLOCKS)
    """all randomness follows from it; validation has as many blocks of seeds of its own"""
    timesteps: int = Field(default=5, ge=0, le=MOST_TIMESTEPS)
    """T, spiking steps per frame, of the first spiking stage; 0 trains the ANN alone"""
    until: int = Field(default=1, ge=1)
    """T of the last stage"""
    step: int = Field(default=1, ge=1)
    """timesteps removed per stage"""
    skip: list[int] = Field(default=[])
    """stages to leave out, e.g. [4, 2]"""
    carry_membrane: bool = True
    """membranes survive from frame to frame"""
    rescale_leak: bool = True
    """keep a frame's memory when T drops: leak ** (T_old / T_new)"""
    teacher: str = "self"
    """who labels frames when distilling: self (this run's ANN), full_state (an ANN that sees the
    environment's info['full_state']), stack:N (an ANN that sees N frames), or a saved agent"""
    start: str | None = None
    """saved agent whose weights the run starts from: an ANN, or a spiking one, which leaves out
    the ANN stage"""
    stack: int = Field(default=1, ge=1)
    """frames the network sees at once; 1 leaves memory to the membranes"""
    hidden: list[int] = Field(default=[128, 128], min_length=1)
    """hidden layers for vector observations; images use the Nature CNN"""
    width: float = Field(default=1.0, gt=0, le=1)
    """of the network for images, as a share of its channels and hidden units; a teacher's is 1"""
    flicker: float = Field(default=0.0, ge=0, le=1)
    """probability of a blank frame in training and validation"""
    sticky: float | None = Field(default=None, ge=0, le=1)
    """probability that the previous action is repeated; unset: as the environment's id has it"""
    maxpool: bool = False
    """Atari frames show the maximum of the last two raw frames (leaks velocity)"""
    fire_reset: bool = False
    """FIRE opens every life of an Atari game, whatever the agent chooses"""
    neurons: NeuronConfig = NeuronConfig()
    privileged: LearnerConfig = LearnerConfig()
    """training of the teacher, where it is not this run's ANN"""
    ann: LearnerConfig = LearnerConfig()
    spiking: DistillConfig = DistillConfig()
    validation: ValidationConfig = ValidationConfig()
    save_every: float = Field(default=10.0, ge=0)
    """seconds between saves for an exact resume, at least; after a resume the first come sooner"""
    device: str = "auto"
    threads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        self.stages()
        teacher_stack(self.teacher)
        if min(self.privileged.steps, self.spiking.steps) == 0:
            raise ValueError("only ann.steps may be 0")
        if self.ann.steps == 0 and self.start is None:
            raise ValueError("ann.steps is 0, but there is no agent to start from (--from)")
        if self.ann.steps == 0 and self.timesteps == 0:
            raise ValueError("ann.steps and timesteps are 0: nothing would be trained")
        if any(width < 1 for width in self.hidden):
            raise ValueError("hidden layers need at least one unit")
        if max(self.privileged.td) == 0:
            raise ValueError("privileged: td is zero, and a teacher has no teacher to learn from")
        if self.teacher == "self" and self.ann.steps > 0 and max(self.ann.td) == 0:
            raise ValueError("ann: td is zero, and with teacher self the ANN has no teacher")
        return self

    def stages(self) -> list[int]:
        """Timesteps of the spiking stages. Raises SnnRlError for an impossible schedule."""
        if self.timesteps == 0:
            return []
        return schedule(self.timesteps, self.until, step=self.step, skip=self.skip)

    def stage_names(self) -> list[str]:
        """All stages in order of training, without a teacher's."""
        return ["ann", *(f"T{t}" for t in self.stages())]


def teacher_stack(teacher: str) -> int | None:
    """N of a teacher 'stack:N', None for other teachers. Raises SnnRlError for a bad N."""
    if not teacher.startswith("stack:"):
        return None
    count = teacher.removeprefix("stack:")
    if not count.isdecimal() or int(count) < 2:
        raise SnnRlError(f"teacher {teacher!r} needs a number of frames from 2, e.g. stack:4")
    return int(count)


def make_config(data: Mapping[str, Any], source: str = "configuration") -> TrainConfig:
    """Validated configuration from plain data. Raises ConfigError with the path of the mistake."""
    if "env" not in data:
        raise ConfigError(f"{source}: no environment is named: set env (--env), e.g. CartPole-v1")
    return validate(TrainConfig, data, source)


def read_config(path: Path) -> TrainConfig:
    """Configuration from a YAML file. Raises ConfigError with the path of the mistake."""
    return make_config(read_yaml(path), str(path))
