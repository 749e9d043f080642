"""Throughput of training: this project's stages against Stable-Baselines3's DQN.

Method: see benchmarks/README.md. Both sides run their own training loop unchanged, with the same
network shape, stacked frames, batch size and number of updates after each roll-out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from snn_rl.agents.bench.interleaved import Contender, Measured, Pacer, take_turns
from snn_rl.agents.config import LearnerConfig, TrainConfig, teacher_stack
from snn_rl.agents.dqn.plan import StagePlan
from snn_rl.agents.dqn.stage import StageTrainer
from snn_rl.agents.evaluation import Evaluation
from snn_rl.agents.monitor import Progress
from snn_rl.agents.policy import Policy
from snn_rl.agents.setup import Setup
from snn_rl.agents.sources import choose_device
from snn_rl.envs.games import atari_game
from snn_rl.errors import SnnRlError
from snn_rl.support.allocator import keep_freed_memory

RIVAL = "Stable-Baselines3 DQN"
RIVAL_ENVS = 16
"""Its fastest number of environments on one thread; with more, its steps no longer gain."""
ENDLESS = 10**9
TIMESTEPS = (5, 3, 1)


def training_throughput(
    config: TrainConfig,
    *,
    stack: int | None = None,
    timesteps: Sequence[int] = TIMESTEPS,
    seconds: float,
    repeats: int,
) -> list[dict[str, Any]]:
    """One row per contender: agent steps per second, update, replay, ratio to the rival.

    Args:
        config: of a run; its Q-learning stage and its spiking stages are measured.
        stack: frames that the Q-learning networks see; by default as in `config`.
        timesteps: of the spiking stages.
        seconds: of a turn, at least.
        repeats: turns of each contender.

    Raises:
        SnnRlError: Stable-Baselines3 is missing, or a contender failed.
    """
    if importlib.util.find_spec("stable_baselines3") is None:
        raise SnnRlError(
            "the rival, Stable-Baselines3, is not installed: pip install 'snn-rl[sb3]'"
        )
    choose_device(config.device, pixels=True)
    stack = stack or teacher_stack(config.teacher) or config.stack
    contenders: dict[str, Contender] = {
        RIVAL: partial(train_rival, config, stack),
        "ANN, plain DQN": partial(train_ann, config, stack, False),
        "ANN, double DQN": partial(train_ann, config, stack, True),
        **{f"T{t}": partial(train_spiking, config, t) for t in timesteps},
    }
    records = take_turns(contenders, seconds=seconds, repeats=repeats)
    rival = records[RIVAL].steps_per_second
    return [_row(name, record, rival) for name, record in records.items()]


def _row(name: str, record: Measured, rival: float) -> dict[str, Any]:
    return {
        "contender": name,
        "steps_per_second": record.steps_per_second,
        "ratio": record.steps_per_second / rival,
        "update_ms": record.update_ms,
        "bytes_per_transition": record.bytes_per_transition,
        "steps_per_second_of_turns": [turn.steps / turn.seconds for turn in record.turns],
    }


def q_learning(config: TrainConfig) -> LearnerConfig:
    """The settings with which a run trains its first network by Q-learning, without an end, and
    with exploration as it is for most of a training."""
    section = config.ann if config.teacher == "self" else config.privileged
    odds = [section.epsilon[1]] * 2
    return section.model_copy(
        update={"steps": ENDLESS, "learning_starts": 0, "epsilon": odds, "distill": [0.0, 0.0]}
    )


class _Paced:
    """A monitor that lets a stage train in turns."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer, self.going = pacer, True

    def progress(self, progress: Progress) -> None:
        self.going = self.pacer.lap(progress.steps, progress.updates)

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        pass

    def should_stop(self) -> bool:
        return not self.going


def train_ann(config: TrainConfig, stack: int, double: bool, pacer: Pacer) -> None:
    """The ANN that Q-learns; without `double` from the targets that the rival's DQN has."""
    keep_freed_memory()
    learner = q_learning(config).model_copy(update={"double": double})
    setup = Setup(config)
    _train(setup, "ann", setup.build_ann(stack), None, learner, pacer)


def train_spiking(config: TrainConfig, timesteps: int, pacer: Pacer) -> None:
    """A spiking stage; an untrained ANN labels its frames."""
    keep_freed_memory()
    setup = Setup(config.model_copy(update={"timesteps": timesteps}))
    teacher = setup.build_ann(teacher_stack(config.teacher) or config.stack)
    network = setup.convert(setup.build_ann(config.stack), teacher)
    policy = Policy(network, timesteps, config.carry_membrane)
    learner = config.spiking.model_copy(update={"steps": ENDLESS, "learning_starts": 0})
    _train(setup, f"T{timesteps}", policy, teacher, learner, pacer)


def _train(
    setup: Setup,
    name: str,
    policy: Policy,
    teacher: Policy | None,
    learner: LearnerConfig,
    pacer: Pacer,
) -> None:
    """A stage's own training loop, without validations and saves, as `snn-rl train` runs it."""
    config = setup.config
    torch.set_num_threads(config.threads)
    validation = config.validation.model_copy(update={"every": ENDLESS})
    plan = StagePlan(name, policy, setup.task, learner, validation, config.seed, teacher)
    trainer = StageTrainer(plan, _Paced(pacer))
    replay = trainer.experience.replay
    pacer.bytes_per_transition = _bytes(replay, replay.start.size)
    pacer.time(trainer.learner, "learn")
    trainer.run()


def train_rival(config: TrainConfig, stack: int, pacer: Pacer) -> None:
    """Stable-Baselines3's DQN, with its own environment wrappers, buffer and network."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

    class Paced(BaseCallback):
        going = True

        def _on_rollout_start(self) -> None:
            self.going = pacer.lap(self.num_timesteps, self.model._n_updates)

        def _on_step(self) -> bool:
            return self.going

    torch.set_num_threads(config.threads)
    pixels = atari_game(config.env) is not None
    make = make_atari_env if pixels else make_vec_env
    env: VecEnv = make(config.env, n_envs=RIVAL_ENVS, seed=config.seed)
    if stack > 1:
        env = VecFrameStack(env, stack)
    learner = q_learning(config)
    cycle = learner.rollout * learner.num_envs
    model = DQN(
        "CnnPolicy" if pixels else "MlpPolicy",
        env,
        learning_rate=learner.learning_rate,
        buffer_size=learner.replay,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},  # or it refuses the above
        learning_starts=0,
        batch_size=learner.batch,
        train_freq=(max(1, cycle // RIVAL_ENVS), "step"),
        gradient_steps=learner.updates,
        target_update_interval=learner.target_every * cycle // learner.updates,
        exploration_initial_eps=learner.epsilon[1],
        exploration_final_eps=learner.epsilon[1],
        policy_kwargs=None if pixels else {"net_arch": config.hidden},
        seed=config.seed,
        device=choose_device(config.device, pixels),
    )
    buffer = model.replay_buffer
    assert buffer is not None
    pacer.bytes_per_transition = _bytes(buffer, buffer.buffer_size * RIVAL_ENVS)
    pacer.time(model, "train")
    model.learn(ENDLESS, callback=Paced(), log_interval=ENDLESS)


def _bytes(replay: object, transitions: int) -> float:
    arrays = [value for value in vars(replay).values() if isinstance(value, np.ndarray)]
    return sum(array.nbytes for array in arrays) / transitions
