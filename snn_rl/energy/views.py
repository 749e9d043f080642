"""Energy reports as people read them: tables for the terminal, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from snn_rl.energy.costs import Costs
from snn_rl.energy.report import EnergyReport
from snn_rl.energy.work import Work, source_of_costs
from snn_rl.support.plotting import BLUE, RED, new_figure

NANO = 1e-3
"""nJ of a pJ."""


def layer_table(name: str, report: EnergyReport) -> Table:
    """Operations of every layer."""
    table = Table("layer", "MACs (ANN)", "entering rate", "ACs (Eq. 4)", "ACs (exact)", title=name)
    for layer in report.layers:
        rate = layer.entering_rate
        table.add_row(
            layer.name,
            f"{layer.macs:,}",
            "analog" if rate is None else f"{rate:.4f}",
            f"{layer.acs:,.0f}",
            f"{layer.exact_acs:,.0f}",
        )
    return table


def summary_tables(reports: Mapping[str, EnergyReport], per: str) -> tuple[Table, Table]:
    """Energy of every stage beside the ANN's, and the operations and memory words behind it.

    Args:
        reports: by stage; the spiking ones of one shape.
        per: "frame" or "image".
    """
    energy = Table(
        *("stage", "compute, nJ", "exact, nJ", "with memory, nJ", "α (Eq. 4)", "α exact"),
        "α with memory",
        title=f"energy per {per}",
    )
    first = _shape(reports)
    ann, skipping = first.ann_pj, first.ann_zero_skipping_pj
    energy.add_row("ANN", *_nano(ann, ann, first.ann_total_pj), "1", "1", "1")
    if skipping:
        cells = _nano(skipping, skipping)
        energy.add_row("ANN, zeros skipped", *cells, "–", *[f"{ann / skipping:.2f}"] * 2, "–")
    behind = Table(
        *("stage", "spikes per neuron", "accumulates", "leak multiplies", "memory accesses"),
        *("of them membranes", "accesses over T1"),
        title=f"operations and memory per {per}",
        caption=source_of_costs(first.costs),
    )
    for name, report in reports.items():
        if not report.neurons:
            continue
        alphas = (report.alpha, report.alpha_exact, report.alpha_total)
        energies = _nano(report.snn_pj, report.exact_pj, report.total_pj)
        energy.add_row(name, *energies, *(f"{alpha:.2f}" for alpha in alphas))
        behind.add_row(
            name,
            f"{report.mean_rate:.4f}",
            f"{report.exact_acs:,.0f}",
            f"{report.leak_multiplies:,}",
            f"{report.main_accesses:,.0f}",
            f"{report.membrane_accesses:,}",
            f"{report.access_ratio:.2f}",
        )
    return energy, behind


def work_table(work: Mapping[str, Sequence[Work]], per: str, costs: Costs) -> Table:
    """What every way to run the ANN and the spiking stages takes.

    Args:
        work: rows by agent, those of the ANN first.
    """
    table = Table(
        *("engine", "multiply-adds", "additions", "weights fetched", "membrane accesses"),
        *("all main accesses", "compute, nJ", "with memory, nJ", "α with memory"),
        title=f"by engine, per {per} (thousands; 32-bit words)",
        caption=source_of_costs(costs),
    )
    (ann, *_), *_ = work.values()
    for name, rows in work.items():
        for row in rows:
            counts = (row.multiplies, row.additions, row.weights, row.membranes, row.main)
            table.add_row(
                row.name if name == "ANN" else f"{name}, {row.name}",
                *(f"{count / 1e3:,.1f}" for count in counts),
                *_nano(row.compute, row.total),
                f"{ann.total / row.total:.2f}",
            )
    return table


def draw_energy(
    names: Sequence[str], compute: Sequence[float], total: Sequence[float], unit: str
) -> Figure:
    """Energy of the ANN and the spiking stages: compute alone, and with all memory traffic."""
    figure, axes = new_figure(max(5.5, 1.6 + 1.1 * len(names)), 4.0)
    x = np.arange(len(names))
    axes.bar(x - 0.2, compute, width=0.38, color=BLUE, label="compute", zorder=2)
    axes.bar(x + 0.2, total, width=0.38, color=RED, label="with memory traffic", zorder=2)
    axes.set_yscale("log")
    axes.set_xticks(x, names)
    axes.set_ylabel(unit)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def draw_reports(reports: Mapping[str, EnergyReport], per: str) -> Figure:
    """`draw_energy` of the ANN and of every spiking stage in `reports`."""
    first = _shape(reports)
    names, compute, total = ["ANN"], [first.ann_pj], [first.ann_total_pj]
    if first.ann_zero_skipping_pj:
        names.append("ANN, zeros\nskipped")
        compute.append(first.ann_zero_skipping_pj)
        total.append(float("nan"))
    for name, report in reports.items():
        if report.neurons:
            names.append(name.rsplit("/", 1)[-1])
            compute.append(report.exact_pj)
            total.append(report.total_pj)
    compute, total = ([value * NANO for value in values] for values in (compute, total))
    return draw_energy(names, compute, total, f"energy per {per}, nJ")


def _shape(reports: Mapping[str, EnergyReport]) -> EnergyReport:
    """The first spiking stage's report: it holds the ANN of its shape too."""
    found = list(reports.values())
    return next((report for report in found if report.neurons), found[0])


def _nano(*picojoules: float) -> list[str]:
    return [f"{value * NANO:,.1f}" for value in picojoules]
