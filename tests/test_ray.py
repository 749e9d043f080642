"""Sweeps on a Ray cluster: workers that die, a clean stop, nodes that do not fit."""

from __future__ import annotations

import importlib
import signal
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import COMMAND
from sweeps import (
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

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("ray_nodes")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def head(nodes: Any) -> Iterator[Any]:
    """A cluster of one node with one core."""
    with nodes.node(cores=1) as started:
        yield started


def sweep_in(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "sweep", "--env", "CartPole-v1", "--seeds", "1", "--out", "sweep"]
    return subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, timeout=100
    )


def python_with_ray_alone(folder: Path) -> str:
    """An interpreter that imports all that this one does, snn_rl left out."""
    venv.create(folder, with_pip=False)
    (place,) = folder.glob("lib/python*/site-packages")
    (place / "others.pth").write_text("\n".join(site.getsitepackages()))
    return str(folder / "bin" / "python")


def test_a_killed_worker_and_a_clean_stop_change_nothing(head: Any, tmp_path: Path) -> None:
    sweep = written(tmp_path / "sweep", seeds=1, **{"spiking.steps": [12288]})
    (cell,) = sweep.cells
    run = sweep.path(cell)
    expected = uninterrupted(tmp_path / "peace", sweep)
    process = resuming(sweep.folder, "--ray", head.address)
    wait_until(lambda: saved(run))
    kill(worker_of(run))
    wait_until(lambda: generation(run) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert f"go on with: snn-rl sweep --resume --out {sweep.folder}" in err
    assert saved(run) and not sweep.finished(cell)
    process = resuming(sweep.folder, "--ray", head.address)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert {cell.name: weights(run)} == expected
    assert generation(run) == 3 and not (sweep.folder / "stop").exists()


def test_a_node_without_the_package_is_named(nodes: Any, head: Any, tmp_path: Path) -> None:
    alone = {"PATH": "/usr/bin:/bin"}
    python = python_with_ray_alone(tmp_path / "other")
    with nodes.node(join=head, python=python, environment=alone):
        done = sweep_in(tmp_path, "--ray", head.address)
    assert done.returncode == 2, done.stderr
    assert "lacks snn-rl: install snn-rl[ray] " + snn_rl.__version__ in done.stderr
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: start one by `ray start --head`"),
        ("nowhere.invalid:6379", "no Ray cluster answers at nowhere.invalid:6379"),
        ("cluster", "--ray 'cluster' must be HOST:PORT"),
    ],
)
def test_nobody_answers(call: Any, address: str, message: str) -> None:
    status, _, err = call("sweep", "--env", "CartPole-v1", "--ray", address)
    assert status == 2 and message in err and err.count("error:") == 1
    assert not Path("runs").exists()
