"""What a run's folder holds, read and checked: configuration, curves, scores, agents' cards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from snn_rl.errors import SnnRlError
from snn_rl.runs.checkpoint import CARD, read_card
from snn_rl.runs.folder import CONFIG, EVALUATION, METRICS, stage_rank
from snn_rl.runs.records import CurvePoint, Record, read_points, read_scores
from snn_rl.support.settings import read_yaml

STAGE_FOLDER = re.compile(r"teacher|ann|T[1-9]\d*")


class StageScore(Record):
    """One stage in evaluation.json. Rates are spikes per neuron per frame, summed over T."""

    stage: str
    timesteps: int | None
    carry_membrane: bool
    trials: int = Field(gt=0)
    distinct_trials: int
    mean_reward: float
    std_reward: float = Field(ge=0)
    rewards: list[float]
    exact: bool = False
    standard_error: float | None = None
    failures: int | None = None
    validation_starts: int | None = None
    truncated: int = 0
    spike_rate: float | None = None
    spike_rates: dict[str, float] = Field(default={})
    alpha: float | None = None
    teacher: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> StageScore:
        if len(self.rewards) != self.trials:
            raise ValueError(f"{len(self.rewards)} rewards for {self.trials} trials")
        return self


class Point(CurvePoint):
    """One line of metrics.jsonl, by environment steps."""

    steps: int
    mean_reward: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder shows it; `scores` and `points` are empty where their file is missing.

    Attributes:
        cards: contents of agent.json by stage, in order of training.
        points: learning curves in order of training.
    """

    config: dict[str, Any]
    cards: dict[str, dict[str, Any]]
    scores: list[StageScore]
    points: list[Point]

    @property
    def env_id(self) -> str:
        """The environment."""
        return str(self.config["env"])

    @property
    def stages(self) -> list[str]:
        """All stages that were scored or saved, the teacher left out."""
        names = [score.stage for score in self.scores] + list(self.cards)
        return sorted({name for name in names if name != "teacher"}, key=stage_rank)


def read_run(folder: Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        SnnRlError: it is no run, or one of its files is damaged; one sentence names it.
    """
    if not (folder / CONFIG).is_file():
        raise SnnRlError(f"{folder} holds no run: {CONFIG} is missing (name a folder of `train`)")
    config = read_yaml(folder / CONFIG)
    if not isinstance(config.get("env"), str):
        raise SnnRlError(f"{folder / CONFIG} is damaged: it names no environment")
    names = [path.parent.name for path in folder.glob(f"*/{CARD}")]
    stages = sorted((name for name in names if STAGE_FOLDER.fullmatch(name)), key=stage_rank)
    return RunRecord(
        config=config,
        cards={name: read_card(folder / name) for name in stages},
        scores=read_scores(folder / EVALUATION, StageScore, "snn-rl evaluate"),
        points=read_points(folder / METRICS, Point, "steps"),
    )
