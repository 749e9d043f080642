"""`snn-rl vision` as a person uses it: runs, reports, experiments, interruption, two processes."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_vision_data import binary_cifar10, tree

from snn_rl import cli
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.tracing import trace
from snn_rl.runs.checkpoint import load, save
from snn_rl.runs.resume import RESUME, STATE
from snn_rl.runs.shipped import Zoo
from snn_rl.support.settings import shipped, validate
from snn_rl.vision import classifier, tables
from snn_rl.vision import run as vision_run
from snn_rl.vision.classifier import load_classifier
from snn_rl.vision.config import VisionConfig
from snn_rl.vision.experiments import (
    experiments,
    load_experiment,
    presets,
    settings_of_run,
)
from snn_rl.vision.models import build_model
from snn_rl.vision.scoring import save_evaluation

COMMAND = [sys.executable, "-m", "snn_rl", "vision"]
SMALL = [
    *("--set", "validation=4", "--set", "timesteps=2", "--set", "neurons.calibration=8"),
    *("--set", "ann={epochs: 1, batch: 8}"),
    *("--set", "spiking={epochs: 1, batch: 8, epochs_at: {}}"),
]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    binary_cifar10(folder)
    return folder


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Call:
    """The entry point without a new process, in an empty folder."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["snn-rl", "vision", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    monkeypatch.chdir(tmp_path)
    return run


def test_train_evaluate_energy_report(call: Call, cifar: Path, tmp_path: Path) -> None:
    code, out, err = call("train", "--data", str(cifar), *SMALL)
    assert (code, out) == (0, ""), err
    assert err.splitlines()[0].startswith(
        "training small on cifar10 into runs/vision/cifar10-small/"
    )
    (run,) = (tmp_path / "runs" / "vision" / "cifar10-small").iterdir()
    assert {path.name for path in run.iterdir()} == {
        *("ann", "T2", "T1", "config.yaml", "metrics.jsonl", "tensorboard"),
        *("owner.json", "owner.lock"),
    }
    code, out, _ = call("evaluate", "--json")
    rows = json.loads(out)
    assert [row["stage"] for row in rows] == ["ann", "T2", "T1"]
    assert all(row["images"] == 4 for row in rows)
    assert rows[0]["alpha"] == 1
    assert rows[0]["ann_zero_skipping"] > 1
    assert json.loads((run / "evaluation.json").read_text()) == rows
    code, out, _ = call("energy", str(run), "--json")
    energies = json.loads(out)
    assert [found["macs"] for found in energies] == [rows[0]["macs"]] * 3
    code, out, _ = call("energy", str(run / "T1"))
    assert code == 0
    assert "memory accesses" in out
    code, out, _ = call("report")
    text = (run / "report.md").read_text()
    assert code == 0
    shown = run.relative_to(tmp_path).as_posix()
    assert f"snn-rl vision evaluate {shown}\nsnn-rl vision report {shown}\n" in text
    for figure in ("accuracy", "spike_rates", "energy", "learning"):
        assert f"(figures/{figure}.png)" in text
        assert (run / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")


def shipped_classifier(root: Path) -> None:
    """An untrained ANN and T1 as the package ships its classifiers."""
    ann = trace(build_model("small", (3, 32, 32), 10).eval(), (3, 32, 32), pixels=True)
    images = torch.randint(0, 256, (1, 8, 3, 32, 32), dtype=torch.uint8)
    card = {
        "task": "classification",
        "stage": "T1",
        "model": "small",
        "dataset": {"name": "cifar10", "classes": list("abcdefghij")},
        "preprocessing": {"image": [3, 32, 32]},
    }
    save(root / "cifar10-small" / "T1", convert(ann, Calibration(images), timesteps=1), 1, card)
    save(root / "cifar10-small" / "ann", ann, 1, card | {"stage": "ann"})


def test_a_shipped_ann_is_converted(
    call: Call, cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (classifier, vision_run):
        monkeypatch.setattr(module, "CLASSIFIERS", Zoo(tmp_path / "zoo", "classifier"))
    shipped_classifier(tmp_path / "zoo")
    start = ("--set", "ann_from=zoo:cifar10-small/ann", "--until", "2", "--run-dir", "run")
    code, _, err = call("train", "--data", str(cifar), *SMALL, *start)
    assert code == 0, err
    assert sorted(p.parent.name for p in Path("run").glob("*/agent.json")) == ["T2"]
    code, _, err = call(
        *("train", "--data", str(cifar), *SMALL), "--set", "ann_from=zoo:cifar10-small/T7"
    )
    assert code == 2 and "it holds cifar10-small/T1, cifar10-small/ann" in err


def test_shipped_classifiers_are_listed_loaded_and_evaluated(
    call: Call, cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (classifier, tables):
        monkeypatch.setattr(module, "CLASSIFIERS", Zoo(tmp_path / "zoo", "classifier"))
    code, _, err = call("zoo")
    assert (code, "ships no classifiers" in err) == (2, True)
    shipped_classifier(tmp_path / "zoo")
    name = "zoo:cifar10-small/T1"
    chosen = ("--classifier", name, "--data", str(cifar))
    code, out, err = call("evaluate", *chosen, "--json")
    (row,) = json.loads(out)
    assert (row["stage"], row["images"]) == ("T1", 4), err
    save_evaluation(tmp_path / "zoo" / "cifar10-small", [row])
    listed = {row["classifier"]: row for row in json.loads(call("zoo", "--json")[1])}
    known = listed[name]
    assert [known[key] for key in ("accuracy", "spike_rate", "alpha")] == [
        row[key] for key in ("accuracy", "spike_rate", "alpha")
    ]
    assert name in call("zoo")[1]
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    assert set(load_classifier(name).predict(images)) <= set("abcdefghij")
    for arguments, message in (
        (("--classifier", "zoo:cifar10-small/T9"), f"it holds {name.removeprefix('zoo:')}"),
        (("--classifier", "nowhere"), "no classifier at nowhere"),
        (("run", "--classifier", name), "not both"),
    ):
        code, out, err = call("evaluate", *arguments)
        assert (code, out, message in err) == (2, "", True), err


def test_mistakes_are_one_sentence_and_leave_nothing(call: Call, tmp_path: Path) -> None:
    for arguments, message in (
        (["train", "--data", "nowhere"], "nowhere holds no CIFAR-10"),
        (["train", "--model", "vgg19"], "model"),
        (["train", "--set", "ann.epoch=3"], "did you mean 'epochs'"),
        (["train", "--resume"], "there is no run to resume below runs/vision/"),
        (["train", "--resume", "--seed", "1"], "--resume takes no options but --run-dir"),
        (["evaluate"], "there is no run yet"),
        (["evaluate", "nowhere"], "holds no finished stage"),
        (["report", "nowhere"], "holds no run"),
        (["experiment", "table9"], "there is no experiment 'table9'"),
        (["experiment", "table4", "--data", "nowhere"], "nowhere holds no CIFAR-10"),
    ):
        code, out, err = call(*arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err
        assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_saves_and_resume_goes_on(call: Call, cifar: Path, tmp_path: Path) -> None:
    """The same messages, folders and refusals as agents have."""
    long = ["train", "--data", str(cifar), *SMALL, "--set", "ann.epochs=60"]
    command = [*COMMAND, *long, "--run-dir", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-2:] == [
        "stopped in stage ann; what was reached is saved in run",
        "go on with: snn-rl vision train --resume --run-dir run",
    ]
    run = tmp_path / "run"
    assert (run / RESUME / STATE).is_file()
    assert not (run / "ann").exists()
    assert load_classifier(run / "interrupted" / "ann").stage == "ann"
    code, _, err = call("train", "--data", str(cifar), *SMALL, "--run-dir", "run")
    assert (code, "already holds a run" in err) == (2, True)
    (tmp_path / "runs" / "vision" / "small").mkdir(parents=True)
    run.rename(newest := tmp_path / "runs" / "vision" / "small" / "run")
    code, _, err = call("train", "--resume")
    assert code == 0, err
    classifier = load_classifier(newest / "T1")
    assert classifier.card["provenance"]["command"] == shlex.join(["snn-rl", "vision", *long])
    assert not (newest / RESUME).exists()
    assert not (newest / "interrupted").exists()
    code, _, err = call("train", "--resume")
    assert (code, err) == (
        2,
        "error: runs/vision/small/run is finished: there is nothing to resume\n",
    )


def test_what_schedulers_send_saves_and_names_the_way_on(cifar: Path, tmp_path: Path) -> None:
    """SIGTERM, SIGHUP and SIGUSR1, side by side; a fourth one's audience leaves, and it ends."""
    numbers = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, 0]
    processes = []
    for number in numbers:
        epochs = f"ann.epochs={10**6 if number else 1}"
        long = [*("train", "--data", str(cifar), *SMALL), "--set", epochs, "--run-dir"]
        processes.append(
            subprocess.Popen(
                [*COMMAND, *long, f"run{number:d}"], cwd=tmp_path, stderr=subprocess.PIPE,
                text=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            )
        )  # fmt: skip
    left = processes.pop()
    assert left.stderr is not None
    assert left.stderr.readline().startswith("training")
    left.stderr.close()
    for number, process in zip(numbers, processes, strict=False):
        deadline = time.monotonic() + 200
        while not (tmp_path / f"run{number:d}" / "metrics.jsonl").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
    for number, process in zip(numbers, processes, strict=False):
        _, err = process.communicate(timeout=100)
        assert process.returncode == 130, err
        resume = f"go on with: snn-rl vision train --resume --run-dir run{number:d}"
        assert err.splitlines()[-1] == resume
        assert (tmp_path / f"run{number:d}" / RESUME / STATE).is_file()
    assert left.wait(timeout=200) == 0
    assert load_classifier(tmp_path / "run0" / "T1").stage == "T1"


def test_damaged_records_are_told(call: Call, cifar: Path) -> None:
    code, _, err = call("train", "--data", str(cifar), *SMALL, "--until", "2", "--run-dir", "run")
    assert code == 0, err
    assert call("evaluate", "run")[0] == 0
    metrics, scores = Path("run/metrics.jsonl"), Path("run/evaluation.json")
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines) + lines[-1][:20])  # cut off by a crash
    assert call("report", "run")[0] == 0
    metrics.write_text('{"stage": "ann"}\n' + "".join(lines))
    code, _, err = call("report", "run")
    assert (code, "metrics.jsonl is damaged in line 1" in err) == (2, True)
    metrics.write_text("".join(lines))
    scores.write_text(scores.read_text().replace('"accuracy"', '"accurate"'))
    code, _, err = call("report", "run")
    assert (code, "run `snn-rl vision evaluate run` again" in err) == (2, True)


def test_two_processes_share_the_batches(call: Call, cifar: Path, tmp_path: Path) -> None:
    """DistributedDataParallel over gloo: one run folder, the same updates as one process."""
    options = ["train", "--data", str(cifar), *SMALL, "--set", "augment={crop: 0, flip: none}"]
    options += ["--set", "batch_norm=false", "--set", "ann.epochs=2", "--device", "cpu"]
    options += ["--until", "2", "--set", "precision=float32"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    both = [*torchrun, "--nproc-per-node", "2", "-m", "snn_rl", "vision", *options]
    done = subprocess.run(
        [*both, "--run-dir", "two"], cwd=tmp_path, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr[-2000:]
    code, _, err = call(*options, "--run-dir", "one")
    assert code == 0, err
    two, one = (load(tmp_path / name / "ann")[0].state_dict() for name in ("two", "one"))
    for name, value in one.items():
        assert (two[name] - value).abs().max() < 2e-3, name
    made = load_classifier(tmp_path / "two" / "T2").card["provenance"]
    assert made["hardware"].startswith("2 x ")


def test_an_experiment_compares_its_runs(call: Call, cifar: Path, tmp_path: Path) -> None:
    small = ["--set", "model=small", "--set", "augment.crop=1"]
    code, out, err = call("experiment", "table4", "--data", str(cifar), *SMALL, *small)
    assert code == 0, err
    text = Path(out.splitlines()[-1]).read_text()
    assert "| gradual |" in text
    assert "| direct |" in text
    assert "(89.10)" in text
    folder = tmp_path / "runs" / "vision" / "table4"
    assert not (folder / "direct" / "ann").exists()  # it converts the other run's
    assert (folder / "direct" / "T1" / "agent.json").is_file()


def test_every_preset_and_experiment_is_valid(tmp_path: Path) -> None:
    assert {"cifar10-small", "cifar10-vgg16", "imagenet-vgg16"} <= set(presets())
    for name in presets():
        validate(VisionConfig, shipped(f"vision/{name}"), name)
    assert {"table1", "table4", "table5", "skip", "budget", "direct", "binary"} <= set(
        experiments()
    )
    for name in experiments():
        plan = load_experiment(name)
        for run in plan.runs:
            settings_of_run(plan, run, tmp_path, {})


def test_other_data_sets_train_too(call: Call, tmp_path: Path) -> None:
    tree(tmp_path / "data" / "train", 2, 6)
    tree(tmp_path / "data" / "test", 2, 1)
    options = ["--dataset", "folder", "--set", "image_size=16", "--set", "workers=1"]
    code, _, err = call("train", *options, *SMALL, "--until", "2", "--run-dir", "run")
    assert code == 0, err
    code, out, _ = call("evaluate", "run", "--json")
    assert [row["images"] for row in json.loads(out)] == [2, 2]
