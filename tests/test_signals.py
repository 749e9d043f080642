"""Ctrl-C and SIGTERM: what was reached is saved."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import COMMAND, SMALL, run_of

from snn_rl.agents.loading import load_agent
from snn_rl.runs.monitor import StopFlag

ENDLESS = 10**9


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(900):
        if condition():
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate()[1])


def stage_is_running(run: Path, stage: str) -> bool:
    file = run / "metrics.jsonl"
    return file.exists() and f'"stage": "{stage}"' in file.read_text()


def test_interruption_saves_what_was_reached(tmp_path: Path) -> None:
    """Ctrl-C in the ANN's training and SIGTERM in a spiking stage, side by side."""
    cases = {
        "ann": (signal.SIGINT, ["--set", f"ann.steps={ENDLESS}"]),
        "T2": (signal.SIGTERM, ["--set", f"spiking.steps={ENDLESS}"]),
    }
    processes = {}
    for stage, (_, changes) in cases.items():
        run = tmp_path / ("a folder with [a name] that no line of a terminal holds " * 2 + stage)
        command = [*COMMAND, *SMALL, *changes, "--run-dir", str(run)]
        processes[stage] = (
            run,
            subprocess.Popen(
                command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ),
        )
    for stage, (number, _) in cases.items():
        run, process = processes[stage]
        wait_for(lambda r=run, s=stage: stage_is_running(r, s), process)  # type: ignore[misc]
        process.send_signal(number)
    for stage, (run, process) in processes.items():
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert out == ""
        assert err.splitlines()[-2:] == [
            f"stopped in stage {stage}; what was reached is saved in {run}",
            f"go on with: snn-rl train --resume --run-dir {shlex.quote(str(run))}",
        ]
        assert "Traceback" not in err
        agent = load_agent(run / "interrupted" / stage)
        assert agent.card["stage"] == stage
        assert agent.act(np.zeros(4, np.float32)) in (0, 1)
        for line in (run / "metrics.jsonl").read_text().splitlines():
            json.loads(line)
        finished = ["ann"] if stage == "T2" else []
        records = {"config.yaml", "metrics.jsonl", "tensorboard", "owner.json", "owner.lock"}
        expected = {*records, "interrupted", "resume"}
        assert {path.name for path in run.iterdir()} == expected.union(finished)
        assert not [path for path in run.rglob(".*")]
        for name in finished:
            assert load_agent(run / name).card["stage"] == name


def _heed_ctrl_c() -> None:
    """Processes of a background job ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_during_evaluation(home: Path) -> None:
    command = [*COMMAND, "evaluate", "--agent", str(run_of(home)), "--trials", "1000"]
    process = subprocess.Popen(
        command, cwd=home, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_ctrl_c
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("evaluating")
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in rest


def test_a_second_ctrl_c_interrupts_at_once_and_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stop = StopFlag()
    with pytest.raises(KeyboardInterrupt), stop.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.raised
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
