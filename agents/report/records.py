"""What a run's folder holds, read and checked: configuration, curves, scores, agents' cards."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from snn_rl.errors import SnnRlError
from snn_rl.runs.checkpoint import CARD, read_card
from snn_rl.runs.monitor import METRICS
from snn_rl.support.settings import read_yaml

CONFIG, EVALUATION = "config.yaml", "evaluation.json"
STAGE_FOLDER = re.compile(r"teacher|ann|T[1-9]\d*")


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class StageScore(_Record):
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
    spike_rates: dict[str, float] = {}
    alpha: float | None = None
    teacher: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> StageScore:
        if len(self.rewards) != self.trials:
            raise ValueError(f"{len(self.rewards)} rewards for {self.trials} trials")
        return self


class Point(_Record):
    """One line of metrics.jsonl; steps and seconds count from the stage's start."""

    stage: str
    steps: int
    seconds: float
    mean_reward: float | None = None
    validation: float | None = None


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
        return sorted({name for name in names if name != "teacher"}, key=_order)


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
    stages = sorted((name for name in names if STAGE_FOLDER.fullmatch(name)), key=_order)
    return RunRecord(
        config=config,
        cards={name: read_card(folder / name) for name in stages},
        scores=_read_scores(folder / EVALUATION),
        points=_read_points(folder / METRICS),
    )


def _order(stage: str) -> tuple[int, int, str]:
    """Teacher, ANN, then T from high to low."""
    rank = {"teacher": 0, "ann": 1}.get(stage, 2)
    timesteps = re.fullmatch(r"T(\d+)", stage)
    return rank, -int(timesteps[1]) if timesteps else 0, stage


def _read_scores(path: Path) -> list[StageScore]:
    if not path.is_file():
        return []
    try:
        return TypeAdapter(list[StageScore]).validate_python(json.loads(_read_text(path)))
    except ValidationError as error:
        reason = _explain(error)
    except (ValueError, RecursionError):
        reason = "it is no JSON"
    raise SnnRlError(f"{path} is damaged ({reason}): run `snn-rl evaluate` again")


def _read_points(path: Path) -> list[Point]:
    """Points of the learning curves; a line that a crash cut off at the end is left out.

    Where a stage was resumed or trained again, its later lines replace what they overlap.
    """
    if not path.is_file():
        return []
    points: list[Point] = []
    lines = _read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            point = Point.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines):
                break
            raise SnnRlError(
                f"{path} is damaged in line {number} ({_explain(error)}): remove that line"
            ) from None
        while points and points[-1].stage == point.stage and points[-1].steps > point.steps:
            points.pop()
        points.append(point)
    order = list(dict.fromkeys(point.stage for point in points))
    return _growing(sorted(points, key=lambda point: order.index(point.stage)))


def _growing(points: list[Point]) -> list[Point]:
    """Seconds that only grow within a stage, where a resumed one counted from zero again."""
    result: list[Point] = []
    offset = 0.0
    for point in points:
        previous = result[-1] if result and result[-1].stage == point.stage else None
        offset = offset if previous else 0.0
        if previous and point.seconds + offset < previous.seconds:
            offset = previous.seconds
        result.append(point.model_copy(update={"seconds": point.seconds + offset}))
    return result


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SnnRlError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SnnRlError(f"{path} is damaged: it is no text") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    what = " ".join(first["msg"].removeprefix("Value error, ").split())[:100]
    return f"{where}: {what}" if where else what
