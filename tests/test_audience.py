"""Whoever watches may leave, send signals, or be unable to spell: results and training stay."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import COMMAND, SMALL, run_of
from test_signals import ENDLESS, stage_is_running, wait_for
from torch import nn

import snn_rl
from snn_rl.agents import evaluation
from snn_rl.commands.output import printable
from snn_rl.errors import CheckpointError, ConversionError

Call = Callable[..., tuple[int, str, str]]


def test_what_schedulers_send_saves_and_names_the_way_on(tmp_path: Path) -> None:
    numbers = (signal.SIGHUP, signal.SIGUSR1)
    processes = []
    for number in numbers:
        command = [*COMMAND, *SMALL, "--set", f"ann.steps={ENDLESS}", "--run-dir", str(number)]
        processes.append(
            subprocess.Popen(
                command, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # also below nohup
            )
        )  # fmt: skip
    for number, process in zip(numbers, processes, strict=True):
        wait_for(lambda n=number: stage_is_running(tmp_path / str(n), "ann"), process)  # type: ignore[misc]
        process.send_signal(number)
    for number, process in zip(numbers, processes, strict=True):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert err.splitlines()[-1] == f"go on with: snn-rl train --resume --run-dir {number:d}"
        assert (tmp_path / str(number) / "resume" / "state.safetensors").exists()


def test_a_closed_pipe_does_not_end_training(tmp_path: Path) -> None:
    """Nobody reads what it says from its second line on; nohup's SIGHUP has no effect."""
    process = subprocess.Popen(
        [*COMMAND, *SMALL, "--run-dir", "run", "--set", "ann.steps=4096"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"training")
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=100) == 0
    snn_rl.load_agent(tmp_path / "run" / "T1")


def test_a_terminal_shows_progress_and_may_be_closed(tmp_path: Path) -> None:
    """One is watched to the end. The other's bars go nowhere from the first word on; its process
    is not of the terminal's session, as below nohup."""
    processes, screens = [], []
    for name in ("watched", "closed"):
        ours, theirs = os.openpty()
        command = [*COMMAND, *SMALL, "--run-dir", name, "--set", "ann.steps=4096"]
        processes.append(
            subprocess.Popen(
                command, cwd=tmp_path, stdout=theirs, stderr=theirs, start_new_session=True,
                env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
            )
        )  # fmt: skip
        screens.append(ours)
        os.close(theirs)
    _screen_until(screens[1], "training CartPole-v1 into closed")
    os.close(screens[1])
    _screen_until(screens[0], "done: snn-rl evaluate --agent watched")
    os.close(screens[0])
    for process, name in zip(processes, ("watched", "closed"), strict=True):
        assert process.wait(timeout=200) == 0
        snn_rl.load_agent(tmp_path / name / "T1")


def _screen_until(terminal: int, text: str) -> None:
    """Read until it shows `text`."""
    shown = ""
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], 200)
        assert ready, shown
        shown += os.read(terminal, 1000).decode(errors="replace")


def test_a_second_ctrl_c_still_names_the_way_on(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, gymnasium as gym\n"
        "from gymnasium.envs.classic_control.cartpole import CartPoleEnv\n"
        "class Slow(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        open('stepping', 'w').close()\n"
        "        time.sleep(60)\n"
        "gym.register('Slow-v0', entry_point=Slow)\n"
    )
    command = [*COMMAND, "train", *SMALL[3:], "--env", "slow:Slow-v0", "--run-dir", "run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    wait_for((tmp_path / "stepping").exists, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "snn-rl train --resume --run-dir run --import slow" in err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_scores_are_shown_whatever_stdout_can_spell(tmp_path: Path, encoding: str) -> None:
    snn_rl.load_agent("zoo:CartPole-v1/T1").save(tmp_path / "ein Stäbchen Ж")
    done = subprocess.run(
        [*COMMAND, "evaluate", "--agent", "ein Stäbchen Ж", "--trials", "2"],
        cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True,
        timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"500.0" in done.stdout


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX")
def test_scores_are_shown_before_they_are_stored(home: Path, tmp_path: Path, call: Call) -> None:
    run = shutil.copytree(run_of(home), tmp_path / "run")
    (run / "evaluation.json").unlink(missing_ok=True)
    (run / "evaluation.json").mkdir()  # nobody, not even root, can write a file there
    status, out, err = call("evaluate", "--agent", "run", "--trials", "2", "--json")
    assert status in (1, 2)
    assert [row["stage"] for row in json.loads(out)] == ["ann", "T2", "T1"]
    assert "evaluation.json" in err


def test_scores_are_shown_though_a_later_stage_cannot_be_played(
    home: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(run_of(home), tmp_path / "run")
    (run / "evaluation.json").unlink(missing_ok=True)
    play, played = evaluation.evaluate_agent, []

    def fails_at_last(agent: snn_rl.Agent, name: str, **how: Any) -> dict[str, Any]:
        if len(played) == 2:
            raise RuntimeError("the simulator hung up")
        played.append(play(agent, name, **how))
        return played[-1]

    monkeypatch.setattr(evaluation, "evaluate_agent", fails_at_last)
    status, out, err = call("evaluate", "--agent", "run", "--trials", "2", "--json")
    assert (status, "the simulator hung up" in err) == (1, True)
    assert [row["stage"] for row in json.loads(out)] == ["ann", "T2"]
    assert not (run / "evaluation.json").exists()


def test_control_characters_reach_no_terminal(tmp_path: Path, call: Call) -> None:
    snn_rl.load_agent("zoo:CartPole-v1/T1").save(tmp_path / "agent")
    card = json.loads((tmp_path / "agent" / "agent.json").read_text())
    for path in (("stage",), ("environment", "env_id"), ("provenance", "command")):
        changed = json.loads(json.dumps(card))
        part = changed if len(path) == 1 else changed[path[0]]
        part[path[-1]] = "\x1b]0;owned\x07\x1b[2J\x9b"
        (tmp_path / "agent" / "agent.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match="holds control characters"):
            snn_rl.load_agent(tmp_path / "agent")
    (tmp_path / "\x1b[2Jname").mkdir()
    status, out, err = call("evaluate", "--agent", "\x1b[2Jname")
    assert (status, "\x1b" in out + err, "\\x1b[2Jname" in err) == (2, False, True)
    assert printable("Ж\x07\x1b\x9b\n") == "Ж\\x07\\x1b\\x9b\n"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_traced_nor_converted(number: float) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    ann = snn_rl.trace(module, (2,), pixels=False)
    module[0].weight.data[1, 1] = number
    with pytest.raises(ConversionError, match=r"0\.weight' is not finite"):
        snn_rl.trace(module, (2,), pixels=False)
    next(ann.parameters()).data[0, 0] = number
    with pytest.raises(ConversionError, match="is not finite"):
        snn_rl.convert(ann, lambda network: network(torch.zeros(1, 1, 2)), timesteps=2)
