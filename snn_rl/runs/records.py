"""What a run recorded, read and checked: learning curves and scores, of agents and classifiers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from snn_rl.errors import SnnRlError
from snn_rl.support.files import LARGEST_RECORDS, read_text


class Record(BaseModel):
    """Base of what is read from a run's folder: strictly typed."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class CurvePoint(Record):
    """One line of metrics.jsonl; its clock's entry and seconds count from the stage's start."""

    stage: str
    seconds: float
    validation: float | None = None


P = TypeVar("P", bound=CurvePoint)
R = TypeVar("R", bound=Record)


def read_points(path: Path, kind: type[P], clock: str) -> list[P]:
    """Points of the learning curves; a line that a crash cut off at the end is left out.

    Where a stage was resumed or trained again, its later lines replace what they overlap.

    Args:
        clock: the entry that counts how far a stage is.

    Raises:
        SnnRlError: a line is damaged.
    """
    if not path.is_file():
        return []
    points: list[P] = []
    lines = read_text(path, LARGEST_RECORDS).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            point = kind.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines):
                break
            raise SnnRlError(
                f"{path} is damaged in line {number} ({_explain(error)}): remove that line"
            ) from None
        while points and points[-1].stage == point.stage and _later(points[-1], point, clock):
            points.pop()
        points.append(point)
    order = list(dict.fromkeys(point.stage for point in points))
    return _growing(sorted(points, key=lambda point: order.index(point.stage)))


def read_scores(path: Path, kind: type[R], command: str) -> list[R]:
    """The rows of an evaluation; none without the file.

    Args:
        command: makes it anew, for messages.

    Raises:
        SnnRlError: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        found = json.loads(read_text(path, LARGEST_RECORDS))
        rows: list[R] = TypeAdapter(list[kind]).validate_python(found)  # type: ignore[valid-type]
        return rows
    except ValidationError as error:
        reason = _explain(error)
    except (ValueError, RecursionError):
        reason = "it is no JSON"
    raise SnnRlError(f"{path} is damaged ({reason}): run `{command}` again")


def _later(point: Any, other: Any, clock: str) -> bool:
    return bool(getattr(point, clock) > getattr(other, clock))


def _growing(points: list[P]) -> list[P]:
    """Seconds that only grow within a stage, where a resumed one counted from zero again."""
    result: list[P] = []
    offset = 0.0
    for point in points:
        previous = result[-1] if result and result[-1].stage == point.stage else None
        offset = offset if previous else 0.0
        if previous and point.seconds + offset < previous.seconds:
            offset = previous.seconds
        result.append(point.model_copy(update={"seconds": point.seconds + offset}))
    return result


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    what = " ".join(first["msg"].removeprefix("Value error, ").split())[:100]
    return f"{where}: {what}" if where else what
