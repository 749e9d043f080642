"""Short trainings of classifiers on images drawn by chance; shared by tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from snn_rl.core.network import Network
from snn_rl.support.settings import validate
from snn_rl.vision.config import VisionConfig
from snn_rl.vision.data import Arrays, Data
from snn_rl.vision.evaluation import Evaluation
from snn_rl.vision.monitor import Progress
from snn_rl.vision.process import Process
from snn_rl.vision.run import Run

SHAPE = (3, 16, 16)


QUICK: dict[str, Any] = {
    "dataset": "cifar10",
    "model": "small",
    "timesteps": 3,
    "step": 2,
    "validation": 40,
    "rebalance": True,
    "ann": {"epochs": 4, "batch": 20, "learning_rate": 0.05, "schedule": "onecycle"},
    "spiking": {"epochs": 1, "batch": 20, "learning_rate": 1e-3, "distill": 0.5},
    "augment": {"crop": 1, "cutout": 2},
    "neurons": {"calibration": 20},
}


def arrays(count: int, seed: int) -> Arrays:
    """Three classes that differ in which channel is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    images = torch.randint(0, 120, (count, *SHAPE), generator=generator)
    images[torch.arange(count), labels] += 80
    return Arrays(images.to(torch.uint8), labels)


DATA = Data(
    "cifar10", ("red", "green", "blue"), SHAPE, arrays(120, 0), arrays(40, 1), arrays(50, 2)
)


class Recorder:
    """Stops after `updates` updates of the whole run."""

    def __init__(self, updates: int | None = None) -> None:
        self.updates, self.seen = updates, 0
        self.validations: list[tuple[str, float]] = []

    def progress(self, progress: Progress) -> None:
        self.seen += 1

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        self.validations.append((progress.stage, evaluation.accuracy))

    def should_stop(self) -> bool:
        return self.updates is not None and self.seen >= self.updates


def config(**changes: Any) -> VisionConfig:
    return validate(VisionConfig, QUICK | changes, "test")


def train(folder: Path, recorder: Recorder | None = None, **changes: Any) -> dict[str, Network]:
    process = Process(channels_last=True)
    run = Run(config(**changes), DATA, folder, process, recorder or Recorder())
    return {name: stage.network for name, stage in run.train().items()}


def same(a: Network, b: Network) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
