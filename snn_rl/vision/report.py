"""The report of a vision run: one Markdown page with tables and figures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from snn_rl.energy.views import draw_energy
from snn_rl.errors import SnnRlError
from snn_rl.runs.checkpoint import read_card, write_text
from snn_rl.runs.folder import CONFIG, FIGURES, METRICS, REPORT, shown
from snn_rl.runs.records import read_points
from snn_rl.support.markdown import fenced, table
from snn_rl.support.plotting import save_figure
from snn_rl.vision import figures
from snn_rl.vision.classifier import stage_folders
from snn_rl.vision.config import VisionConfig
from snn_rl.vision.figures import EpochPoint
from snn_rl.vision.paper import table1
from snn_rl.vision.scoring import read_evaluation, settings_of

Row = Mapping[str, Any]

_GLOSSARY = """\
- **T**: spiking timesteps per image. **Test**: accuracy on the official test images, which took no
  part in training. **Validation**: on training images that were held out; it chose the weights.
- **Spikes**: per neuron and image, summed over the T timesteps.
- **α**: compute energy of the ANN over this network's by Eq. 4 of the paper (4.6 pJ per
  multiply-accumulate, 0.9 pJ per spike's accumulate). **Exact** charges every spike its true
  fan-out and the neurons' own work; **with memory** adds all reads and writes."""


def write_report(run: Path) -> Path:
    """Write report.md and figures/*.png into a run's folder; returns the path of report.md.

    Raises:
        SnnRlError: the folder is no run, or it has not been evaluated; nothing is written.
    """
    if not (run / CONFIG).is_file():
        raise SnnRlError(f"{run} holds no run: {CONFIG} is missing (name a folder of vision train)")
    settings, rows = settings_of(run, None), read_evaluation(run)
    paper = table1(settings.model, settings.dataset)
    rows = [{**row, "paper": paper.get(row["stage"])} for row in rows]
    sections = [
        _introduction(settings),
        _results(rows),
        _picture(run, "accuracy", "Accuracy per stage", figures.draw_accuracy(rows)),
        _spikes(run, rows),
        _energy(run, rows),
        _learning(run),
        _reproduce(run),
    ]
    path = run / REPORT
    write_text(path, "\n\n".join(section for section in sections if section) + "\n")
    return path


def _introduction(settings: VisionConfig) -> str:
    if settings.binary:
        course = "was trained with binary activations from its first epoch"
    else:
        stages = ", ".join(f"T{t}" for t in settings.stages()) or "no spiking stage"
        norm = "with batch-norm, folded at conversion" if settings.batch_norm else "no batch-norm"
        course = f"was trained as an ANN ({norm}) and turned into spiking networks ({stages})"
        if settings.direct:
            course += ", each one converted from the ANN directly"
    return f"# {settings.model} on {settings.dataset}\n\nThe network {course}."


def _results(rows: Sequence[Row]) -> str:
    images = rows[0]["images"]
    head = ["stage", "test, %", "paper, %", "validation, %", "spikes", "α", "α exact"]
    head += ["α with memory", "weights kept", "minutes"]
    cells = [
        [
            f"**{row['stage']}**",
            f"{row['accuracy']:.2f}",
            _number(row["paper"], ".2f"),
            _number(row["validation"], ".2f"),
            f"{row['spike_rate']:.3f}" if row["spike_rates"] else "–",
            f"{row['alpha']:.2f}",
            f"{row['alpha_exact']:.2f}",
            f"{row['alpha_total']:.2f}",
            f"{row['density']:.1%}",
            _number(row["seconds"] and row["seconds"] / 60, ".1f"),
        ]
        for row in rows
    ]
    return f"## Results\n\nOn {images:,} test images.\n\n{table(head, cells)}\n\n{_GLOSSARY}"


def _spikes(run: Path, rows: Sequence[Row]) -> str:
    rates: dict[str, Mapping[str, float]] = {}
    for row in rows:
        if row.get("spike_rates_before") and row["stage"] == "T1":
            rates["T1 before training"] = row["spike_rates_before"]
        if row["spike_rates"]:
            rates[row["stage"]] = row["spike_rates"]
    if not rates:
        return ""
    return _picture(run, "spike_rates", "Spikes per layer", figures.draw_spike_rates(rates))


def _energy(run: Path, rows: Sequence[Row]) -> str:
    if not any(row["spike_rates"] for row in rows):
        return ""
    head = ["stage", "main-memory accesses", "accesses over T1 (paper's count)", "compute, µJ"]
    head += ["compute exact, µJ", "with memory, µJ", "layer by layer, µJ"]
    cells = [
        [
            row["stage"],
            f"{row['main_accesses']:,.0f}",
            f"{row['access_ratio']:.2f}",
            *(
                f"{row['energy_uj'][name]:.2f}"
                for name in ("compute", "compute, exact", "with memory")
            ),
            f"{row['energy_uj']['with memory, layer by layer']:.2f}",
        ]
        for row in rows
    ]
    first = rows[0]["energy_uj"]
    skipping = first["ann zero-skipping compute"]
    note = f"ANN: compute {first['ann compute']:.2f} µJ"
    note += f", skipping zero activations {skipping:.2f} µJ" if skipping else ""
    note += f", with memory {first['ann with memory']:.2f} µJ, per image."
    picture = _picture(run, "energy", "Energy per image", _draw_energy(rows))
    return f"{picture}\n\n{note}\n\n{table(head, cells)}"


def _draw_energy(rows: Sequence[Row]) -> Figure:
    first, spiking = rows[0]["energy_uj"], [row for row in rows if row["spike_rates"]]
    names = ["ANN", *(str(row["stage"]) for row in spiking)]
    compute = [first["ann compute"], *(row["energy_uj"]["compute, exact"] for row in spiking)]
    total = [first["ann with memory"], *(row["energy_uj"]["with memory"] for row in spiking)]
    return draw_energy(names, compute, total, "energy per image, µJ")


def _learning(run: Path) -> str:
    points = read_points(run / METRICS, EpochPoint, "images")
    if not points:
        return ""
    return _picture(run, "learning", "Learning curves", figures.draw_learning(points))


def _reproduce(run: Path) -> str:
    cards = [read_card(folder) for folder in stage_folders(run)]
    made = [card.get("provenance", {}) for card in cards]
    commands = list(dict.fromkeys(str(p["command"]) for p in made if p.get("command")))
    hardware = ", ".join(dict.fromkeys(str(p.get("hardware")) for p in made))
    seed = next((p["seed"] for p in made if "seed" in p), "?")
    name = shlex.quote(shown(run))
    commands += [f"snn-rl vision evaluate {name}", f"snn-rl vision report {name}"]
    block = fenced("\n".join(commands), "sh")
    return (
        f"## How to reproduce this\n\n{block}\n\nSeed {seed}. Trained on {hardware}. "
        "All settings are in `config.yaml` beside this file."
    )


def _picture(run: Path, name: str, title: str, figure: Figure) -> str:
    save_figure(figure, run / FIGURES / f"{name}.png")
    return f"## {title}\n\n![{title}]({FIGURES}/{name}.png)"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
