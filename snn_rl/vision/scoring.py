"""Scores of a run's stages on the test set: accuracy, spike rates, operations and energy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict

from snn_rl.conversion.weight_pruning import density
from snn_rl.energy.accounting import energy_report
from snn_rl.energy.counts import activation_densities
from snn_rl.energy.report import EnergyReport
from snn_rl.errors import SnnRlError
from snn_rl.runs import checkpoint
from snn_rl.runs.folder import CONFIG, EVALUATION, shown
from snn_rl.runs.records import Record, read_scores
from snn_rl.support.settings import read_yaml, validate
from snn_rl.vision.classifier import Classifier, load_classifier
from snn_rl.vision.config import ANN, VisionConfig
from snn_rl.vision.data import Source
from snn_rl.vision.evaluation import Evaluation, evaluate
from snn_rl.vision.process import Process

DENSITY_IMAGES = 250


def settings_of(folder: Path, data: Path | None) -> VisionConfig:
    """Settings of the run that `folder` is or lies in, its data set looked for in `data`.

    A stage that was copied out of its run is described by its card.
    """
    changes = {"data": str(data)} if data else {}
    for place in (folder, folder.parent):
        if (place / CONFIG).is_file():
            return validate(VisionConfig, read_yaml(place / CONFIG) | changes, str(place / CONFIG))
    card = load_classifier(folder).card
    side = int(card["preprocessing"]["image"][1])
    known = {"dataset": card["dataset"]["name"], "model": card["model"], "image_size": side}
    return validate(VisionConfig, known | changes, str(folder / checkpoint.CARD))


def score(
    classifier: Classifier,
    test: Source,
    process: Process,
    *,
    timesteps: int | None = None,
    limit: int | None = None,
    densities: dict[str, float] | None = None,
) -> tuple[dict[str, Any], EnergyReport]:
    """Scores of a stage and its energy per image.

    Args:
        timesteps: run a spiking stage at another T.
        limit: look at so many images only.
        densities: of the run's ANN (`ann_densities`), for the ANN that skips zeros.

    Returns:
        a JSON-able row of `snn-rl vision evaluate`, and the energy report.
    """
    network = process.place(classifier.network.clone())
    steps = (timesteps or classifier.timesteps) if network.spiking else 1
    found = evaluate(network, test, steps, process, limit=limit)
    energy = energy_report(network, steps, found.neuron_rates, densities=densities)
    return _row(classifier, steps, found, energy), energy


def ann_densities(folders: Sequence[Path], test: Source, process: Process) -> dict[str, float]:
    """Share of non-zero activations in the ANN among `folders`; empty without one."""
    for folder in folders:
        classifier = load_classifier(folder)
        if not classifier.network.spiking:
            network = process.place(classifier.network).eval()
            count = min(DENSITY_IMAGES, len(test.labels))
            ((images, _),) = test.batches([torch.arange(count)])
            return activation_densities(network, images[None].to(process.device))
    return {}


def save_evaluation(run: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Keep the rows of `snn-rl vision evaluate` beside the run, for its report."""
    checkpoint.write_text(run / EVALUATION, json.dumps(list(rows), indent=1))


class StageScore(Record):
    """What every row of evaluation.json has; see `_row` for the rest."""

    model_config = ConfigDict(extra="allow")

    stage: str
    images: int
    accuracy: float
    spike_rates: dict[str, float]
    energy_uj: dict[str, float | None]


def read_evaluation(run: Path) -> list[dict[str, Any]]:
    """What `save_evaluation` kept. Raises SnnRlError if it is missing or damaged."""
    path, command = run / EVALUATION, f"snn-rl vision evaluate {shlex.quote(shown(run))}"
    rows = [score.model_dump() for score in read_scores(path, StageScore, command)]
    if not rows:
        raise SnnRlError(f"{path} is missing: run `{command}`")
    return rows


def _row(
    classifier: Classifier, timesteps: int, found: Evaluation, energy: EnergyReport
) -> dict[str, Any]:
    skipping = energy.ann_zero_skipping_pj
    return {
        "stage": classifier.stage,
        "dataset": classifier.card["dataset"]["name"],
        "model": classifier.card["model"],
        "timesteps": timesteps if classifier.stage != ANN else None,
        "images": found.images,
        "accuracy": round(100 * found.accuracy, 3),
        "loss": found.loss,
        "validation": classifier.card.get("results", {}).get("validation"),
        "spike_rate": energy.mean_rate,
        "spike_rates": found.spike_rates,
        "spike_rates_before": classifier.card.get("spike_rates_before"),
        "density": density(classifier.network),
        "macs": energy.macs,
        "alpha": energy.alpha,
        "alpha_exact": energy.alpha_exact,
        "alpha_total": energy.alpha_total,
        "ann_zero_skipping": None if skipping is None else energy.ann_pj / skipping,
        "access_ratio": energy.access_ratio,
        "main_accesses": energy.main_accesses,
        "energy_uj": {
            "ann compute": energy.ann_pj * 1e-6,
            "ann with memory": energy.ann_total_pj * 1e-6,
            "ann zero-skipping compute": None if skipping is None else skipping * 1e-6,
            "compute": energy.snn_pj * 1e-6,
            "compute, exact": energy.exact_pj * 1e-6,
            "with memory": energy.total_pj * 1e-6,
            "with memory, layer by layer": energy.total_layerwise_pj * 1e-6,
        },
        "seconds": classifier.card.get("provenance", {}).get("seconds"),
    }
