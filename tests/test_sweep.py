"""Sweeps on this machine: kills, failures, signals, what is refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeps import (
    SETTINGS,
    generation,
    kill,
    resuming,
    saved,
    uninterrupted,
    wait_until,
    weights,
    worker_of,
    written,
)

import snn_rl
from snn_rl.agents.sweep.manifest import (
    MANIFEST,
    Cell,
    Sweep,
    make_sweep,
    parse_grid,
    parse_seeds,
    read_sweep,
)
from snn_rl.agents.sweep.progress import last_point, line, standing
from snn_rl.agents.sweep.scheduler import DEATHS, Course, Ending, run_cells
from snn_rl.errors import SnnRlError
from snn_rl.runs.owner import own
from snn_rl.support.settings import merge

Call = Callable[..., tuple[int, str, str]]
FEW: dict[str, Any] = {"ann": {"steps": 192, "learning_starts": 64}, "spiking": {"steps": 128}}


class Scripted:
    """Workers that end as they are told, at once; what is "done" leaves its agent's card."""

    def __init__(self, endings: dict[str, list[Ending]], sweep: Sweep, count: int = 1) -> None:
        self.endings, self.sweep, self.count = endings, sweep, count
        self.started: list[str] = []
        self.running: list[Path] = []
        self.stopped = False

    def free(self) -> bool:
        return len(self.running) < self.count

    def start(self, folder: Path) -> None:
        self.started.append(folder.relative_to(self.sweep.folder).as_posix())
        self.running.append(folder)

    def ended(self) -> list[tuple[Path, Ending]]:
        over, self.running = self.running, []
        return [(folder, self._next(folder)) for folder in over]

    def stop(self) -> None:
        self.stopped = True

    def _next(self, folder: Path) -> Ending:
        told = self.endings.get(folder.relative_to(self.sweep.folder).as_posix(), [])
        return told.pop(0) if told else Ending("stopped" if self.stopped else "done")


def scripted(tmp_path: Path, seeds: int = 3, **endings: list[Ending]) -> tuple[Course, Scripted]:
    sweep = written(tmp_path, seeds)
    workers = Scripted(endings, sweep)
    return run_cells(sweep, workers, lambda: False), workers


def test_killed_workers_change_nothing(tmp_path: Path) -> None:
    """Every weight is that of `snn-rl train`, and what is finished does not run again."""
    sweep = written(tmp_path / "sweep")
    expected = uninterrupted(tmp_path / "peace", sweep)
    runs = [sweep.path(cell) for cell in sweep.cells]
    process = resuming(sweep.folder, "--workers", "2")
    for run in runs:
        wait_until(lambda run=run: saved(run))
        kill(worker_of(run))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out == "" and "2 worker(s) died" in err
    assert {cell.name: weights(sweep.path(cell)) for cell in sweep.cells} == expected
    owners = [generation(run) for run in runs]
    assert owners == [2, 2]
    again = resuming(sweep.folder)
    assert again.wait(100) == 0
    assert [generation(run) for run in runs] == owners


def test_the_sweep_itself_may_be_killed(tmp_path: Path) -> None:
    """Its workers save and end by themselves; the next sweep waits for them and goes on."""
    sweep = written(tmp_path / "sweep", seeds=1)
    expected = uninterrupted(tmp_path / "peace", sweep)
    (run,) = (sweep.path(cell) for cell in sweep.cells)
    process = resuming(sweep.folder)
    wait_until(lambda: saved(run))
    process.kill()
    process.wait()
    process = resuming(sweep.folder)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert weights(run) == expected["seed0"]


def test_ctrl_c_saves_all(tmp_path: Path) -> None:
    sweep = written(tmp_path, seeds=1, **{"spiking.steps": [10**7]})
    process = resuming(tmp_path, "--workers", "1")
    run = sweep.path(sweep.cells[0])
    wait_until(lambda: (run / "ann").exists() and saved(run))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert f"go on with: snn-rl sweep --resume --out {tmp_path}" in err
    assert saved(run) and not (run / "T1").exists()
    with own(run):  # nobody works in it any more
        pass


def test_a_failing_cell_is_named_and_does_not_end_the_others(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, merge(SETTINGS, FEW), [0], {}, "test")
    # A teacher that is gone when the run begins.
    broken = merge(SETTINGS, {"seed": 5, "teacher": str(tmp_path / "gone")})
    (bad,) = make_sweep(tmp_path, broken, [5], {}, "test").cells
    sweep.joined([bad]).write()
    process = resuming(tmp_path, "--workers", "2", "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    assert "failed: seed5: " in err and "gone" in err and "Traceback" not in err
    told = json.loads(out)
    assert list(told["runs"]) == ["seed0"] and list(told["failed"]) == ["seed5"]


def test_one_sweep_has_one_process(tmp_path: Path) -> None:
    sweep = written(tmp_path, seeds=1)
    with own(sweep.folder):
        process = resuming(tmp_path)
        _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert f"error: {tmp_path} is being trained by process {os.getpid()}" in err


def test_a_cell_that_keeps_killing_its_workers_fails(tmp_path: Path) -> None:
    dying = [Ending("died", "its process was ended by SIGKILL")] * DEATHS
    course, workers = scripted(tmp_path, seed1=dying)
    assert course.states == {"seed0": "done", "seed1": "failed", "seed2": "done"}
    assert course.reasons["seed1"].endswith("its process was ended by SIGKILL")
    assert workers.started.count("seed1") == DEATHS
    assert course.restarts == DEATHS - 1


def test_cells_wait_for_those_that_they_start_from(tmp_path: Path) -> None:
    plain = dict(SETTINGS)
    first, second, third = (
        Cell(name, "", 0, plain, after) for name, after in (("a", ("c",)), ("b", ("a",)), ("c", ()))
    )
    sweep = Sweep(tmp_path, "CartPole-v1", "test", (first, second, third))
    sweep.write()
    workers = Scripted({}, sweep, count=3)
    assert set(run_cells(sweep, workers, lambda: False).states.values()) == {"done"}
    assert workers.started == ["c", "a", "b"]

    workers = Scripted({"c": [Ending("failed", "no luck")]}, sweep, count=3)
    course = run_cells(sweep, workers, lambda: False)
    assert workers.started == ["c"]
    assert course.reasons == {
        "c": "no luck",
        "a": "it needs c, which failed",
        "b": "it needs a, which failed",
    }


def test_stopping_waits_for_the_workers(tmp_path: Path) -> None:
    sweep = written(tmp_path, 3)
    workers = Scripted({}, sweep)
    asked = iter([False, True, True, True])
    course = run_cells(sweep, workers, lambda: next(asked))
    assert workers.stopped
    assert course.states == {"seed0": "done", "seed1": "waiting", "seed2": "waiting"}


def test_a_grid_gives_all_combinations(tmp_path: Path) -> None:
    grid = parse_grid(["hidden=[8],[16, 16]", "ann.learning_rate=5e-4,1e-3"])
    assert grid == {"hidden": [[8], [16, 16]], "ann.learning_rate": [5e-4, 1e-3]}
    sweep = make_sweep(tmp_path, SETTINGS, [0, 3], grid, "test")
    sweep.write()
    assert len(sweep.cells) == 8 and len(sweep.variants) == 4
    cell = sweep.cells[-1]
    assert cell.variant == "hidden=[16, 16] ann.learning_rate=0.001"
    assert cell.name == "hidden=16,_16_ann.learning_rate=0.001/seed3"
    assert (cell.config.hidden, cell.config.ann.learning_rate, cell.config.seed) == (
        [16, 16], 1e-3, 3,
    )  # fmt: skip
    assert read_sweep(tmp_path) == sweep


def test_steps_of_single_stages_are_read_back(tmp_path: Path) -> None:
    settings = {**SETTINGS, "spiking": {**SETTINGS["spiking"], "steps_at": {2: 64}}}
    sweep = make_sweep(tmp_path, settings, [0], {}, "test")
    sweep.write()
    (cell,) = read_sweep(tmp_path).joined(sweep.cells).cells  # as when the command is repeated
    assert cell.config == sweep.cells[0].config
    assert cell.config.spiking.steps_at == {2: 64}


def test_seeds() -> None:
    assert parse_seeds("3") == [0, 1, 2]
    assert parse_seeds("10-12") == [10, 11, 12]
    for text in ("0", "-1", "3-1", "x", "1,2", ""):
        with pytest.raises(SnnRlError, match="--seeds"):
            parse_seeds(text)


def test_progress_is_read_from_the_folders(tmp_path: Path) -> None:
    sweep = written(tmp_path, 2)
    first, second = sweep.cells
    point = {"stage": "T1", "steps": 1024, "total_steps": 2048, "mean_reward": 21.5}
    metrics = sweep.path(first) / "metrics.jsonl"
    metrics.write_text("x" * 9000 + "\n" + json.dumps(point) + '\n{"stage": "T1", "st')
    assert last_point(metrics) == point
    found = [standing(sweep.path(c), c, s) for c, s in ((first, "running"), (second, "waiting"))]  # type: ignore[arg-type]
    assert [cell.done for cell in found] == [0.75, 0]
    text = "38% of 2 cells: 1 waiting, 1 running | seed0 75% T1  1,024 steps  reward 21.5"
    assert line(found) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", "ann.learning_rat=1,2"], "did you mean 'learning_rate'"),
        (["--grid", "hiden=[1],[2]"], "did you mean 'hidden'"),
        (["--grid", "hidden"], "must look like key=a,b"),
        (["--grid", "hidden=[1"], "is not a YAML value"),
        (["--grid", "timesteps=1,x"], "timesteps"),
        (["--grid", "seed=1,2"], "use --seeds"),
        (["--grid", "env=CartPole-v1,Pong"], "make a sweep for each environment"),
        (["--grid", "until=1,1"], "two cells would be called"),
        (["--grid", "until=1", "--grid", "until=2"], "is given twice"),
        (["--seeds", "none"], "--seeds 'none' must be a number"),
        (["--preset", "paper"], "has no preset 'paper'"),
        (["--set", "maxpool=true"], "maxpool is for Atari games"),
        (["--set", "teacher=gone"], "no agent at gone"),
    ],
)
def test_bad_input_is_one_sentence(call: Call, options: list[str], message: str) -> None:
    status, out, err = call("sweep", "--env", "CartPole-v1", *options)
    assert (status, out) == (2, "")
    assert message in err and err.count("error:") == 1 and "Traceback" not in err
    assert not Path("runs").exists()


def test_bad_folders_are_one_sentence(call: Call, tmp_path: Path) -> None:
    written(tmp_path / "one", 1)
    cases: list[tuple[list[str], str]] = [
        (["--resume"], "there is no sweep below runs/"),
        (["--resume", "--out", "nowhere"], "nowhere holds no sweep"),
        (["--resume", "--out", "one", "--seeds", "3"], "--resume keeps the sweep's settings"),
        (["--env", "CartPole-v1", "--out", "one"], "already holds a sweep"),
        ([], "no environment is named"),
    ]
    for options, message in cases:
        status, _, err = call("sweep", *options)
        assert status == 2 and message in err, err


@pytest.mark.parametrize("options", [(), ("--out", "deep/er")])
def test_a_refused_sweep_leaves_the_folders_that_were_there(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    here = tmp_path / "empty" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    status, _, err = call("sweep", "--env", "NoSuchGame-v0", *options)
    assert status == 2 and "NoSuchGame-v0" in err
    assert here.is_dir() and not list(here.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "has version 99, and this snn-rl reads version 1"),
        ({"release": "0.0.1"}, "was begun by snn-rl 0.0.1, and this is " + snn_rl.__version__),
        ({"format": "other"}, "is damaged or foreign"),
        ({"cells": [{"name": "x"}]}, "is damaged or foreign"),
    ],
)
def test_another_sweep_is_refused(
    call: Call, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    written(tmp_path / "one", 1)
    path = tmp_path / "one" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    status, _, err = call("sweep", "--resume", "--out", "one")
    assert status == 2 and message in err


def test_no_cell_lies_outside_the_sweep(tmp_path: Path) -> None:
    written(tmp_path, 1)
    text = (tmp_path / MANIFEST).read_text().replace('"seed0"', '"../seed0"')
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(SnnRlError, match="damaged or foreign"):
        read_sweep(tmp_path)


def test_from_python(call: Call, tmp_path: Path) -> None:
    found = snn_rl.sweep(merge(SETTINGS, FEW), seeds=[3], out=tmp_path / "sweep", workers=1)
    assert found.runs == {"seed3": tmp_path / "sweep" / "seed3"} and not found.failed
    assert snn_rl.load_agent(found.runs["seed3"] / "T1").timesteps == 1
    assert snn_rl.sweep(out=tmp_path / "sweep", resume=True).runs == found.runs
    status, out, _ = call("evaluate", "--agent", "sweep", "--trials", "2", "--json")
    rows = json.loads(out)
    assert status == 0 and [row["stage"] for row in rows] == ["ann", "T1"]
    assert json.loads((tmp_path / "sweep" / "seed3" / "evaluation.json").read_text()) == rows
    status, out, _ = call("report", "sweep")
    assert status == 0 and "| T1 | 1 | " in Path(out.strip()).read_text()
    with pytest.raises(SnnRlError, match="give out= alone"):
        snn_rl.sweep("CartPole-v1", out=tmp_path / "sweep", resume=True)
    with pytest.raises(SnnRlError, match="0 workers"):
        snn_rl.sweep(out=tmp_path / "sweep", resume=True, workers=0)
