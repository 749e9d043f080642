"""A run's records: what a killed run wrote after its last save is not told twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from snn_rl.runs.folder import METRICS, TENSORBOARD
from snn_rl.runs.monitor import Records


def write(folder: Path, clock: str, stage: str, times: range) -> None:
    records = Records(folder, clock)
    for now in times:
        records.add({"stage": stage, clock: now, "validation": None}, {"loss": 1.0 / now})
    records.close()


def read(folder: Path, clock: str) -> list[tuple[str, int]]:
    lines = (folder / METRICS).read_text().splitlines()
    return [(point["stage"], point[clock]) for point in map(json.loads, lines)]


def scalars(folder: Path, stage: str, name: str = "loss") -> list[int]:
    """Moments at which TensorBoard draws a value.

    It reads files in the order of their names: by second, process and a plain counter, which
    only one process that writes many files in a second, as here, brings out of order.
    """
    for path in (folder / TENSORBOARD / stage).iterdir():
        head, _, number = path.name.rpartition(".")
        path.rename(path.with_name(f"{head}.{number:>09}"))
    events = EventAccumulator(str(folder / TENSORBOARD / stage))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


@pytest.mark.parametrize("clock", ["steps", "images"])
@given(reached=st.integers(2, 9), saved=st.integers(1, 11), cut=st.integers(0, 12))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_resumed_stage_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, clock: str, reached: int, saved: int, cut: int
) -> None:
    """Wherever the kill came, also in the middle of a line."""
    folder = tmp_path_factory.mktemp("run")
    write(folder, clock, "ann", range(1, 5))
    write(folder, clock, "T2", range(1, reached + 1))
    whole = (folder / METRICS).read_bytes()
    (folder / METRICS).write_bytes(whole[: len(whole) - cut])
    write(folder, clock, "T2", range(saved, 12))
    found = read(folder, clock)
    assert found[:4] == [("ann", now) for now in range(1, 5)]
    before = range(1, min(saved, reached + (not cut)))
    assert found[4:] == [("T2", now) for now in (*before, *range(saved, 12))]
    drawn = range(1, min(saved, reached + 1))  # TensorBoard's file was whole
    assert scalars(folder, "T2") == [*drawn, *range(saved, 12)]


def test_a_moment_is_drawn_once(tmp_path: Path) -> None:
    """Where progress and a validation coincide, and though the process dies at once."""
    records = Records(tmp_path, "steps")
    for scores in ({}, {"score": 3.0}):
        for now in (1, 1 + len(scores)):
            records.add({"stage": "ann", "steps": now}, {"loss": 0.5, **scores})
    assert scalars(tmp_path, "ann") == [1, 2]
    assert scalars(tmp_path, "ann", "score") == [1, 2]
    records.close()


def test_without_a_line_nothing_is_written(tmp_path: Path) -> None:
    Records(tmp_path / "run", "steps").close()
    assert not (tmp_path / "run").exists()
    write(tmp_path / "run", "steps", "ann", range(1, 3))
    assert (tmp_path / "run" / TENSORBOARD / "ann").is_dir()
