"""What a stage trains, on what and how."""

from __future__ import annotations

from dataclasses import dataclass

from snn_rl.agents.config import LearnerConfig, ValidationConfig
from snn_rl.agents.dqn.validation import Task
from snn_rl.agents.policy import Policy


@dataclass(frozen=True)
class StagePlan:
    """A stage to train.

    Attributes:
        name: for display, and of its state.
        policy: how the network is run; `policy.network` is trained in place.
        seed: all randomness of the stage follows from it.
        teacher: labels frames where the stage distils.
    """

    name: str
    policy: Policy
    task: Task
    config: LearnerConfig
    validation: ValidationConfig
    seed: int
    teacher: Policy | None = None

    @property
    def labeller(self) -> Policy | None:
        """The teacher where it is asked for anything: labels cost a pass at every step."""
        asked = max(self.config.distill) > 0 or self.config.teacher_acts > 0
        return self.teacher if asked else None

    @property
    def total_updates(self) -> int:
        """Updates of the whole stage."""
        config = self.config
        roll_outs = (config.steps - config.learning_starts) // (config.rollout * config.num_envs)
        roll_outs -= config.overlap  # nothing is learnt from the last one
        return roll_outs * config.updates
