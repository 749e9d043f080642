"""One training stage: what is validated, what is kept, when it stops."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import Watcher, short, tiny, weights
from torch import nn

import snn_rl
from snn_rl.agents.config import TrainConfig
from snn_rl.agents.dqn.plan import StagePlan
from snn_rl.agents.dqn.stage import Result, StageTrainer
from snn_rl.agents.dqn.validation import Task, Validator
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import mlp
from snn_rl.agents.seeds import validation_seeds
from snn_rl.conversion.tracing import trace
from snn_rl.core.grid import snap
from snn_rl.envs import check_spaces
from snn_rl.envs.observation import ObservationPipeline, pipeline_for
from snn_rl.errors import SnnRlError


def train_ann(
    env_id: str,
    config: TrainConfig,
    watcher: Watcher,
    module: nn.Module | None = None,
    teacher: Policy | None = None,
) -> tuple[Result, Task]:
    spec = check_spaces(env_id)
    pipeline = pipeline_for(spec)
    torch.manual_seed(0)
    module = module or mlp(pipeline.frame_shape[0], [16], spec.num_actions)
    policy = Policy(trace(module, pipeline.frame_shape, pixels=False))
    task = Task(env_id, pipeline, spec.num_actions, config.seed)
    plan = StagePlan("ann", policy, task, config.ann, config.validation, 11, teacher)
    return StageTrainer(plan, watcher).run(), task


def test_the_network_kept_is_the_best_and_among_equals_the_last() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    policy = Policy(trace(module, (2,), pixels=False))
    (bias,) = (p for p in policy.network.parameters() if p.dim() == 1)
    task = Task("Choice-v0", ObservationPipeline("vector", (2,)), 2, 0)
    validator = Validator(policy, task, tiny().validation)
    for preference in ([1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [1.0, 0.5]):
        with torch.no_grad():
            for parameter in policy.network.parameters():
                parameter.zero_()
            bias.copy_(torch.tensor(preference))
        validator.validate()
    assert validator.last == 0
    assert validator.best_mean == 3
    assert validator.best is not None
    (kept,) = (p for p in validator.best.parameters() if p.dim() == 1)
    assert kept.tolist() == [0.0, 2.0]


def test_the_checkpoint_kept_is_the_best_validated() -> None:
    config = tiny(
        ann={"steps": 1024, "learning_rate": 0.2}, validation={"every": 64, "episodes": 8}
    )
    watcher = Watcher()
    result, task = train_ann("CartPole-v1", config, watcher)
    assert len(watcher.validations) > 10
    best = max(watcher.validations)
    assert min(watcher.validations) < best
    assert result.validation == best
    again = evaluate(
        Policy(result.network), "CartPole-v1", task.pipeline, validation_seeds(config.seed, 8)
    )
    assert again.mean == best
    # What was scored is what is saved: its weights already lie on the grid.
    before = {name: value.clone() for name, value in weights(result.network).items()}
    snap(result.network, 1)
    assert all(torch.equal(before[name], value) for name, value in weights(result.network).items())


def test_a_stage_stops_at_its_target() -> None:
    config = tiny(validation={"target": 1.0, "every": 64})
    result, _ = train_ann("CartPole-v1", config, Watcher())
    assert result.target_reached
    assert result.steps < config.ann.steps


def test_a_target_counts_once_further_episodes_confirm_it() -> None:
    """Witness pays 1 on the validation seeds and 0 on those that confirm them."""
    config = short(env="Witness-v0", validation={"target": 0.9, "every": 64})
    watcher = Watcher()
    result, _ = train_ann("Witness-v0", config, watcher)
    assert watcher.validations == pytest.approx([1.0] * len(watcher.validations))
    assert not result.target_reached
    assert result.validation == 0
    assert result.steps >= config.ann.steps


@pytest.mark.parametrize("distils", [True, False])
def test_a_teacher_is_asked_where_the_stage_distils_alone(distils: bool) -> None:
    asked = []

    class Teacher(Policy):
        def q_values(self, *arguments: Any) -> Any:
            asked.append(arguments)
            return super().q_values(*arguments)

    config = short(ann={"distill": [0.5, 0.5] if distils else [0, 0]})
    teacher = Teacher(trace(mlp(4, [8], 2), (4,), pixels=False))
    train_ann("CartPole-v1", config, Watcher(), teacher=teacher)
    assert bool(asked) == distils


def test_progress_is_reported_after_every_roll_out() -> None:
    config = short()
    watcher = Watcher()
    result, _ = train_ann("CartPole-v1", config, watcher)
    assert [p.steps for p in watcher.seen] == [64, 128, 192]
    assert [p.updates for p in watcher.seen] == [2, 4, 6]
    assert result.updates == 6
    assert watcher.seen[0].epsilon > watcher.seen[-1].epsilon
    assert all(p.total_steps == 192 and p.stage == "ann" for p in watcher.seen)


def test_a_stage_without_any_update_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train_ann("CartPole-v1", short(ann={"learning_starts": 5000}), Watcher())
    assert "stage ann ended untrained" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        train_ann("CartPole-v1", short(), Watcher())
    assert not caplog.text


def test_validation_episodes_can_be_cut_off() -> None:
    config = tiny(ann={"steps": 256}, validation={"episodes": 4, "max_frames": 5})
    result, _ = train_ann("CartPole-v1", config, Watcher())
    assert result.validation == 5  # one point a frame, and no pole falls within five


def test_dropout_does_not_disturb_validation() -> None:
    module = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
    result, task = train_ann("CartPole-v1", short(), Watcher(), module)
    scores = [
        evaluate(Policy(result.network), task.env_id, task.pipeline, validation_seeds(0, 4)).mean
        for _ in range(2)
    ]
    assert scores == [result.validation] * 2


def test_replay_that_cannot_hold_the_stacked_frames_is_refused(tmp_path: Path) -> None:
    smallest = 8 * (1 + 3 + 1)
    config = short(stack=4, ann={"replay": smallest})
    with pytest.raises(SnnRlError, match="ann: replay must hold at least 56 transitions"):
        snn_rl.train(config, run_dir=tmp_path / "run")
