"""The paper's experiments as lists of runs, each a preset with some settings changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from snn_rl.errors import SnnRlError
from snn_rl.support.settings import Section, merge, shipped, validate
from snn_rl.vision.config import VisionConfig

PREFIX = "experiment-"


class Variant(Section):
    """One run of an experiment."""

    preset: str
    """name of a preset, e.g. cifar10-vgg16"""
    settings: dict[str, Any] = Field(default={})
    """changes to the preset"""
    ann_of: str | None = None
    """an earlier run of the experiment whose ANN this one converts"""
    paper: dict[str, float] = Field(default={})
    """what the paper reports: accuracy in percent by stage, or alpha"""


class Experiment(Section):
    """Runs that are compared with each other and with the paper."""

    about: str
    runs: dict[str, Variant] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        known: set[str] = set()
        for name, variant in self.runs.items():
            if variant.ann_of is not None and variant.ann_of not in known:
                raise ValueError(f"{name}: ann_of names no earlier run")
            known.add(name)
        return self


def experiments() -> list[str]:
    """Names of the shipped experiments."""
    return _names(PREFIX)


def presets() -> list[str]:
    """Names of the shipped presets."""
    return [name for name in _names("") if not name.startswith(PREFIX)]


def load_experiment(name: str) -> Experiment:
    """A shipped experiment. Raises SnnRlError for an unknown name."""
    data = shipped(f"vision/{PREFIX}{name}")
    if not data:
        raise SnnRlError(f"there is no experiment {name!r}; there are {', '.join(experiments())}")
    return validate(Experiment, data, f"experiment {name}")


def settings_of_run(
    experiment: Experiment, name: str, folder: Path, changes: Mapping[str, Any]
) -> VisionConfig:
    """Settings of one run; `folder` holds the runs, `changes` go on top of all of them."""
    variant = experiment.runs[name]
    base = merge(merge(shipped(f"vision/{variant.preset}"), variant.settings), changes)
    if variant.ann_of is not None:
        base["ann_from"] = str(folder / variant.ann_of / "ann")
    return validate(VisionConfig, base, f"run {name}")


def comparison(experiment: Experiment, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown table: every run's accuracies by stage, the paper's in brackets.

    Args:
        rows: evaluations by run.
    """
    stages = list(dict.fromkeys(row["stage"] for found in rows.values() for row in found))
    lines = ["| run | " + " | ".join(stages) + " | α of the last stage |"]
    lines.append("|---|" + "---:|" * (len(stages) + 1))
    for name, found in rows.items():
        paper = experiment.runs[name].paper
        accuracies = {row["stage"]: row["accuracy"] for row in found}
        cells = [_cell(accuracies.get(stage), paper.get(stage)) for stage in stages]
        cells.append(_cell(found[-1]["alpha"] if found else None, paper.get("alpha")))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return f"{experiment.about}\n\n" + "\n".join(lines) + "\n\nIn brackets: the paper.\n"


def _cell(value: float | None, paper: float | None) -> str:
    text = "–" if value is None else f"{value:.2f}"
    return text if paper is None else f"{text} ({paper:.2f})"


def _names(prefix: str) -> list[str]:
    folder = resources.files("snn_rl.configs") / "vision"
    names = [entry.name.removesuffix(".yaml") for entry in folder.iterdir()]
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))
