"""Tables of `snn-rl vision` for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from snn_rl.inference.reader import WEIGHTS, read_card
from snn_rl.runs.folder import EVALUATION
from snn_rl.runs.shipped import PREFIX
from snn_rl.support.markdown import EMPTY
from snn_rl.vision.classifier import CLASSIFIERS
from snn_rl.vision.config import ANN
from snn_rl.vision.scoring import read_evaluation


def evaluation_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per stage."""
    first = rows[0]
    title = f"{first['model']} on {first['dataset']}, {first['images']:,} test images"
    table = Table(
        "stage", "test %", "validation %", "spikes", "α", "α exact", "α with memory", title=title
    )
    for row in rows:
        validation = row["validation"]
        table.add_row(
            row["stage"],
            f"{row['accuracy']:.2f}",
            "–" if validation is None else f"{validation:.2f}",
            f"{row['spike_rate']:.3f}" if row["spike_rates"] else "–",
            f"{row['alpha']:.2f}",
            f"{row['alpha_exact']:.2f}",
            f"{row['alpha_total']:.2f}",
        )
    return table


def zoo_row(name: str) -> dict[str, Any]:
    """What is known of a shipped classifier, JSON-able; its scores are those of its run.

    Raises:
        CheckpointError: its card is missing or damaged.
        SnnRlError: the scores beside it are damaged.
    """
    folder = CLASSIFIERS.folder / name
    card, run = read_card(folder), folder.parent
    rows = read_evaluation(run) if (run / EVALUATION).is_file() else []
    scores = next((row for row in rows if row["stage"] == card["stage"]), {})
    return {
        "classifier": f"{PREFIX}{name}",
        "dataset": card["dataset"]["name"],
        "timesteps": card["timesteps"] if card["stage"] != ANN else None,
        "accuracy": scores.get("accuracy"),
        "spike_rate": scores.get("spike_rate") if card["stage"] != ANN else None,
        "alpha": scores.get("alpha"),
        "bytes": (folder / WEIGHTS).stat().st_size,
    }


def zoo_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per shipped classifier."""
    table = Table("classifier", "data set", "T", "test %", "spikes", "α", "MB")
    for row in rows:
        table.add_row(
            row["classifier"],
            row["dataset"],
            str(row["timesteps"] or EMPTY),
            _number(row["accuracy"], 2),
            _number(row["spike_rate"], 3),
            _number(row["alpha"], 2),
            f"{row['bytes'] / 1e6:.1f}",
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return EMPTY if value is None else f"{value:.{digits}f}"
