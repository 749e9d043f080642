"""The command line as a person uses it: output, exit status, messages, interruption."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, run_of, snn_rl_command

import snn_rl
from snn_rl import cli
from snn_rl.agents.loading import load_agent, zoo
from snn_rl.agents.results import stages
from snn_rl.runs.checkpoint import CARD

KEYS = {
    *("agent", "env", "stage", "timesteps", "carry_membrane", "trials", "distinct_trials"),
    *("mean_reward", "std_reward", "rewards", "lengths", "truncated", "spike_rate"),
    *("spike_rates", "alpha", "teacher"),
}
Call = Callable[..., tuple[int, str, str]]


def test_the_entry_point_is_installed() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="snn-rl")
    assert script.load() is cli.main


def test_training_writes_a_run(home: Path) -> None:
    run = run_of(home)
    assert [stage.name for stage in stages(run)] == ["ann", "T2", "T1"]
    assert load_agent(run / "T1").card["provenance"]["command"].startswith("snn-rl train --env")
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["stage"] for line in told)) == ["ann", "T2", "T1"]


def test_progress_comes_as_plain_lines_without_a_terminal(home: Path) -> None:
    text = (home / "stderr.txt").read_text()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    run = run_of(home).relative_to(home)
    assert lines[0] == f"training CartPole-v1 into {run}"
    assert lines[-1] == f"done: snn-rl evaluate --agent {run}"
    for stage in ("ann", "T2", "T1"):
        (last,) = (line for line in lines if line.strip().startswith(f"{stage} 100%"))
        assert "validation" in last
    assert "Traceback" not in text


def test_evaluate_prints_one_json_document_and_nothing_else(home: Path) -> None:
    """Without --agent: every stage of the newest run."""
    old = home / "runs" / "CartPole-v1" / "older"
    shutil.copytree(run_of(home), old)
    os.utime(old / "config.yaml", (1, 1))
    try:
        done = snn_rl_command("evaluate", "--trials", "3", "--json", cwd=home)
    finally:
        shutil.rmtree(old)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    run = run_of(home).relative_to(home)
    assert [row["agent"] for row in rows] == [f"{run}/{name}" for name in ("ann", "T2", "T1")]
    assert [row["stage"] for row in rows] == ["ann", "T2", "T1"]
    for row in rows:
        assert set(row) >= KEYS
        assert row["env"] == "CartPole-v1"
        assert row["trials"] == len(row["rewards"]) == len(row["lengths"]) == 3
        assert 1 <= row["distinct_trials"] <= 3
        assert row["mean_reward"] == pytest.approx(np.mean(row["rewards"]))
        assert row["std_reward"] == pytest.approx(np.std(row["rewards"]))
    ann, longer, shorter = rows
    assert (ann["spike_rates"], ann["alpha"], ann["teacher"]) == ({}, 1.0, None)
    assert (longer["timesteps"], shorter["timesteps"]) == (2, 1)
    assert longer["teacher"] == "self"
    for row in (longer, shorter):
        assert row["carry_membrane"] is True
        (rate,) = row["spike_rates"].values()
        assert row["spike_rate"] == pytest.approx(rate)
    assert json.loads((run_of(home) / "evaluation.json").read_text()) == rows


def test_evaluate_one_agent_with_other_options(home: Path, call: Call) -> None:
    agent = str(run_of(home) / "T1")
    code, out, _ = call(
        *("evaluate", "--agent", agent, "--trials", "2", "--json"),
        *("--timesteps", "3", "--no-carry", "--seed", "4", "--flicker", "0.5"),
    )
    assert code == 0
    (row,) = json.loads(out)
    assert (row["timesteps"], row["carry_membrane"], row["seed"], row["flicker"]) == (
        3, False, 4, 0.5,
    )  # fmt: skip
    assert row["agent"] == agent
    _, out, _ = call("evaluate", "--agent", agent, "--trials", "2", "--json")
    (plain,) = json.loads(out)
    assert (plain["timesteps"], plain["carry_membrane"]) == (1, True)


def test_evaluate_cuts_endless_games_off(call: Call) -> None:
    options = ("evaluate", "--agent", "zoo:CartPole-v1/T1", "--trials", "2", "--max-frames", "30")
    code, out, _ = call(*options, "--json")
    (row,) = json.loads(out)
    assert (code, row["max_frames"], row["truncated"]) == (0, 30, 2)
    assert row["lengths"] == row["rewards"] == [30, 30]
    assert "2 trials, cut off after 30 frames" in call(*options)[1]
    code, _, err = call(*options, "--record")
    assert (code, "keeps the standard scores" in err) == (2, True)


def test_evaluate_shows_a_table(home: Path, call: Call) -> None:
    code, out, err = call("evaluate", "--agent", str(run_of(home)), "--trials", "2")
    assert code == 0
    assert "CartPole-v1, 2 trials" in out
    assert all(stage in out for stage in ("ann", "T2", "T1"))
    assert "evaluating" in err


def test_scores_are_recorded_in_cards_on_request_alone(home: Path, call: Call) -> None:
    run = home / "copy"
    shutil.copytree(run_of(home), run)
    try:
        agent = str(run / "T1")
        assert call("evaluate", "--agent", agent, "--trials", "2")[0] == 0
        assert "mean_reward" not in load_agent(agent).card["results"]
        assert call("evaluate", "--agent", agent, "--trials", "2", "--record")[0] == 0
        assert load_agent(agent).card["results"]["trials"] == 2
        code, _, err = call("evaluate", "--agent", agent, "--record", "--no-carry")
        assert code == 2
        assert "--record keeps the standard scores" in err
    finally:
        shutil.rmtree(run)


def test_steps_count_for_every_stage(call: Call, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("spiking: {steps_at: {2: 99999999}}")
    status, _, err = call(*SMALL, "--config", "own.yaml", "--steps", "256", "--run-dir", "run")
    assert status == 0, err
    cards = (json.loads((tmp_path / "run" / s / CARD).read_text()) for s in ("T2", "T1"))
    assert [card["provenance"]["steps"] for card in cards] == [256, 256]


def test_report(home: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)  # of the newest run there
    code, out, _ = call("report")
    assert code == 0
    path = home / out.strip()
    assert path == run_of(home) / "report.md"
    assert "CartPole-v1" in path.read_text()


def test_energy_prints_one_json_document(home: Path, call: Call) -> None:
    agent = str(run_of(home) / "T1")
    code, out, _ = call("energy", "--agent", agent, "--trials", "1", "--json")
    assert code == 0
    (row,) = json.loads(out)
    assert row["agent"] == agent
    assert row["alpha"] > 0
    code, out, _ = call("energy", "--agent", agent, "--trials", "1")
    assert code == 0
    assert "leak multiplies" in out


def test_energy_of_all_stages_has_the_ann_that_skips_zeros(
    home: Path, call: Call, tmp_path: Path
) -> None:
    for source in (str(run_of(home)), "zoo:CartPole-v1"):
        command = ("energy", "--agent", source, "--trials", "1", "--figure", "energy.png")
        code, out, err = call(*command)
        assert code == 0, err
        assert "ANN, zeros skipped" in out
        assert (tmp_path / "energy.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "energy.png").unlink()


def test_zoo(call: Call) -> None:
    code, out, err = call("zoo")
    if zoo():
        assert code == 0
        assert all(f"zoo:{name}" in out for name in zoo())
    else:
        assert (code, err) == (2, "error: this installation ships no agents\n")


def test_version_and_help(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    done = snn_rl_command("--version", cwd=Path.cwd())
    assert (done.returncode, done.stdout) == (0, f"snn-rl {snn_rl.__version__}\n")
    code, out, _ = call("--help")
    assert code == 0
    for command in ("train", "evaluate", "report", "zoo", "energy", "benchmark"):
        assert command in out
    _, out, _ = call("train", "--help")
    assert "not spiking timesteps" in " ".join(out.split())


BAD_INPUT = {
    "unknown environment": (["train", "--env", "CartPole-v7"], "CartPole-v7"),
    "unsupported environment": (["train", "--env", "Pendulum-v1"], "only Discrete actions"),
    "no environment": (["train"], "no environment is named: set env (--env)"),
    "unknown key": (
        ["train", "--env", "CartPole-v1", "--set", "ann.stesp=3"],
        "unknown key 'ann.stesp'; did you mean 'steps'?",
    ),
    "bad value": (["train", "--env", "CartPole-v1", "--set", "seed=x"], "seed: "),
    "bad steps": (["train", "--env", "CartPole-v1", "--steps", "0"], "greater than 0"),
    "bad override": (["train", "--env", "CartPole-v1", "--set", "seed"], "key=value"),
    "missing file": (["train", "--config", "none.yaml"], "none.yaml cannot be read"),
    "unknown preset": (
        ["train", "--env", "PongNoFrameskip-v4", "--preset", "papre"],
        "PongNoFrameskip-v4 has no preset 'papre'; it has low-rate, paper",
    ),
    "two sets of settings": (
        ["train", "--config", "own.yaml", "--preset", "paper"],
        "--config and --preset are two sets of settings: leave one out",
    ),
    "bad schedule": (["train", "--env", "CartPole-v1", "--until", "9"], "timesteps >= until"),
    "bad device": (["train", "--env", "CartPole-v1", "--device", "tpu9"], "'tpu9' is not avail"),
    "bad teacher": (["train", "--env", "CartPole-v1", "--teacher", "x"], "no agent at x"),
    "no full state": (
        ["train", "--env", "CartPole-v1", "--teacher", "full_state"],
        "reports no info['full_state']",
    ),
    "missing agent": (["evaluate", "--agent", "nowhere"], "no agent at nowhere"),
    "no agent": (["evaluate", "--agent", "."], "holds no agent"),
    "unknown zoo agent": (["evaluate", "--agent", "zoo:x/T1"], "the zoo has no agent 'x/T1'"),
    "no run": (["report"], "there is no run yet: start one with"),
    "not a run": (["report", "."], "holds no run"),
    "energy of nothing": (["energy", "--agent", "nowhere"], "no agent at nowhere"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_answered_with_one_sentence(case: str, call: Call, tmp_path: Path) -> None:
    arguments, message = BAD_INPUT[case]
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("training ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    if case != "no full state":
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--nonsense"], "No such option: --nonsense"),
        (["train", "--env"], "requires an argument"),
        (["train", "--seed", "x"], "Invalid value for '--seed'"),
        (["evaluate", "--trials", "0"], "--trials '0' must be a whole number from 1, or all"),
        (["evaluate", "--flicker", "2"], "Invalid value for '--flicker'"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_bad_usage(arguments: list[str], message: str, call: Call) -> None:
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_tracebacks_are_shown_on_request_alone(tmp_path: Path, call: Call) -> None:
    code, _, err = call("train", "--env", "Nope-v0")
    assert code == 2
    assert err.startswith("error: Gymnasium knows no environment 'Nope-v0'")
    assert err.count("\n") == 1
    loud = snn_rl_command("train", "--env", "Nope-v0", "--debug", cwd=tmp_path)
    assert loud.returncode != 0
    assert "Traceback" in loud.stderr


def test_diverging_training_is_a_failure_not_bad_input(call: Call) -> None:
    code, _, err = call(*SMALL, "--set", "ann.learning_rate=1e37", "--set", "timesteps=0")
    assert code == 1
    assert "error: training diverged" in err
    assert "(--debug shows where it happened)" in err
    assert "Traceback" not in err


def test_an_existing_run_is_refused(home: Path, call: Call) -> None:
    run = run_of(home)
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    code, _, err = call(*SMALL, "--run-dir", str(run))
    assert code == 2
    assert err == (f"error: {run} already holds a run: choose another --run-dir, or --resume it\n")
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


def test_a_run_folder_that_cannot_be_made(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = call(*SMALL, "--run-dir", "file/run")
    assert code == 2
    assert err.splitlines()[-1] == "error: file/run: Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_run_folder(call: Call, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    code, _, err = call(*SMALL, "--run-dir", "locked/run")
    assert code == 2
    assert err.splitlines()[-1] == "error: locked/run: Permission denied"
