"""A run's folder has one owner: what two processes at once may do, and what they are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from short_runs import short

from snn_rl.agents.monitor import Monitor
from snn_rl.agents.run import Run
from snn_rl.errors import SnnRlError
from snn_rl.runs.monitor import MonitorGroup, StopFlag
from snn_rl.runs.owner import OWNER, make_folder, own, remove_if_empty

TRAIN = [
    *[sys.executable, "-m", "snn_rl", "train", "--env", "CartPole-v1", "--timesteps", "1"],
    *["--steps", "6000", "--set", "hidden=[8]", "--set", "validation.episodes=2"],
    *["--set", "validation.target=null", "--set", "save_every=0"],
]


def start(*options: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TRAIN, *options], cwd=home, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def weights(run: Path) -> dict[str, bytes]:
    return {stage: (run / stage / "weights.safetensors").read_bytes() for stage in ("ann", "T1")}


def test_a_folder_is_owned_by_one(tmp_path: Path) -> None:
    with own(tmp_path) as owner:
        owner.check()
        with pytest.raises(SnnRlError, match=f"is being trained by process {os.getpid()} on"):
            own(tmp_path).__enter__()
        owner.check()
    with own(tmp_path) as later:
        assert later.generation == owner.generation + 1


def test_an_owner_that_lost_its_folder_writes_no_more(tmp_path: Path) -> None:
    with own(tmp_path) as owner:
        document = json.loads((tmp_path / OWNER).read_text())
        taken = document | {"generation": 2, "process": 1, "host": "other"}
        (tmp_path / OWNER).write_text(json.dumps(taken))
        with pytest.raises(SnnRlError, match="was taken over by process 1 on other"):
            owner.check()


def test_a_run_that_lost_its_folder_saves_nothing(tmp_path: Path) -> None:
    class Thief:
        def progress(self, progress: object) -> None:
            (tmp_path / OWNER).write_text("{}")

        def validated(self, progress: object, evaluation: object) -> None: ...

        def should_stop(self) -> bool:
            return False

    thief: Monitor = MonitorGroup([Thief()], StopFlag())
    with pytest.raises(SnnRlError, match="was taken over by another process"):
        Run(short(save_every=0), tmp_path, thief).train()
    assert not (tmp_path / "ann").exists()


def test_leftovers_go_and_a_half_renamed_stage_comes_back(tmp_path: Path) -> None:
    with own(tmp_path):
        pass
    for name in (".ann-x1y2z3w4", "figures", "T2", ".T2.old", ".T1.old"):
        (tmp_path / name).mkdir()
    for name in (".config.yaml.77", ".metrics.jsonl.77", "T2/.agent.json.77"):
        (tmp_path / name).write_text("half")
    (tmp_path / "figures" / ".rewards.png.77").write_text("half")
    with own(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"figures", "T2", "T1", "owner.lock", OWNER}


def test_folders_made_at_once_differ(tmp_path: Path) -> None:
    folders = [make_folder(tmp_path / "runs" / "env") for _ in range(5)]
    assert len(set(folders)) == 5
    remove_if_empty(folders[0], tmp_path / "runs")
    (folders[1] / "config.yaml").write_text("")
    remove_if_empty(folders[1], tmp_path / "runs")
    assert [folder.exists() for folder in folders[:2]] == [False, True]


def test_only_folders_that_were_made_are_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    folder = make_folder(tmp_path / "mine" / "runs" / "env")
    remove_if_empty(folder, tmp_path / "mine" / "runs")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_starts_in_one_second_train_apart(tmp_path: Path) -> None:
    seeds = ["0", "1", "0"]
    started = [start("--seed", seed, home=tmp_path) for seed in seeds]
    for process in started:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    by_seed: dict[int, list[dict[str, bytes]]] = {}
    for run in (tmp_path / "runs" / "CartPole-v1").iterdir():
        seed = json.loads((run / "ann" / "agent.json").read_text())["provenance"]["seed"]
        by_seed.setdefault(seed, []).append(weights(run))
    assert [len(found) for _, found in sorted(by_seed.items())] == [2, 1]
    assert by_seed[0][0] == by_seed[0][1] != by_seed[1][0]


def test_one_of_two_resumes_at_once_is_refused(tmp_path: Path) -> None:
    alone = start("--run-dir", "alone", home=tmp_path)
    assert alone.wait(timeout=120) == 0
    killed = start("--run-dir", "run", home=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "resume" / "state.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    resume = [*TRAIN[:4], "--resume", "--run-dir", "run"]
    both = [
        subprocess.Popen(
            resume, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
    assert sorted(code for _, code in ends) == [0, 2]
    refused = next(err for err, code in ends if code == 2)
    assert "run is being trained by process" in refused
    assert weights(tmp_path / "run") == weights(tmp_path / "alone")


def test_bits_and_machine_are_recorded(tmp_path: Path) -> None:
    agents = Run(short(), tmp_path, MonitorGroup([], StopFlag())).train()
    made = agents["ann"].card["provenance"]
    assert f", {torch.get_num_threads()} thread(s)" in made["hardware"]
    assert isinstance(made["processor_flags"], list)
