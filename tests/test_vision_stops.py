"""Trainings of classifiers that are stopped late, or whose state is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from short_vision import DATA, QUICK, Recorder, config, same, train

from snn_rl.core.network import Network
from snn_rl.errors import CheckpointError
from snn_rl.runs.folder import Interrupted
from snn_rl.runs.resume import RESUME, STATE
from snn_rl.vision.classifier import load_classifier
from snn_rl.vision.evaluation import Evaluation, evaluate
from snn_rl.vision.monitor import Progress
from snn_rl.vision.process import Process
from snn_rl.vision.run import Run


@pytest.mark.parametrize("updates", [8, 27])
def test_resume_is_exact_with_muon_and_averages_in_bfloat16(tmp_path: Path, updates: int) -> None:
    changes: dict[str, Any] = {
        stage: QUICK[stage]
        | {"optimizer": "muon", "learning_rate": 0.02, "bias_learning_rate": 1e-3, "average": 0.9}
        for stage in ("ann", "spiking")
    }
    changes["augment"] = {"crop": 1, "border": "reflect", "flip": "alternating", "mixup": 0.5}
    process = Process(channels_last=True, precision=torch.bfloat16)

    def run(folder: Path, recorder: Recorder) -> dict[str, Network]:
        stages = Run(config(**changes), DATA, folder, process, recorder).train()
        return {name: stage.network for name, stage in stages.items()}

    whole = run(tmp_path / "whole", Recorder())
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", Recorder(updates))
    resumed = run(tmp_path / "parts", Recorder())
    assert all(same(resumed[name], network) for name, network in whole.items())
    for name, network in whole.items():
        found = evaluate(network, DATA.validation, 1 if name == "ann" else int(name[1:]), process)
        card = load_classifier(tmp_path / "whole" / name).card
        assert card["results"]["validation"] == pytest.approx(100 * found.accuracy, abs=1e-3)


class StopsInLastScoring(Recorder):
    """Asks to stop after the last update and validation of a stage."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage, self.over = stage, False

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        self.over = False

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        super().validated(progress, evaluation)
        self.over = progress.stage == self.stage and progress.epoch == progress.epochs

    def should_stop(self) -> bool:
        return self.over


def test_a_stop_in_the_last_scoring_is_heeded_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 what is saved is scored once more, in float32."""
    monkeypatch.setattr("snn_rl.vision.evaluation.BATCH", 20)  # of the 40 held-out images
    process = Process(precision=torch.bfloat16)

    def run(folder: Path, recorder: Recorder) -> dict[str, Network]:
        stages = Run(config(timesteps=1), DATA, folder, process, recorder).train()
        return {name: stage.network for name, stage in stages.items()}

    alone, parts = tmp_path / "alone", tmp_path / "parts"
    recorders = [Recorder(), StopsInLastScoring("ann"), StopsInLastScoring("T1"), Recorder()]
    whole = run(alone, recorders[0])
    for recorder in recorders[1:3]:
        with pytest.raises(Interrupted):
            run(parts, recorder)
    resumed = run(parts, recorders[3])
    updates = [recorder.seen for recorder in recorders]
    assert updates == [sum(updates[1:3]), *updates[1:3], 0]
    for name, network in whole.items():
        assert same(resumed[name], network)
        results = [load_classifier(folder / name).card["results"] for folder in (alone, parts)]
        assert results[0] == results[1]


def test_a_damaged_resume_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, Recorder(3))
    path = tmp_path / RESUME / STATE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"damaged: remove .*/resume to train its stage"):
        train(tmp_path)
    shutil.rmtree(tmp_path / RESUME)
    assert "T1" in train(tmp_path)
