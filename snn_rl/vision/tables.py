"""Tables of `snn-rl vision` for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from snn_rl.energy import EnergyReport


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


def memory_table(reports: Mapping[str, EnergyReport]) -> Table:
    """Memory and energy of every stage, the ANN's with and without zero-skipping first."""
    table = Table(
        *("stage", "memory accesses", "over T1", "compute µJ", "exact µJ", "with memory µJ"),
        title="per image",
    )
    first = next(iter(reports.values()))
    skipping = first.ann_zero_skipping_pj
    if skipping is not None:
        table.add_row("ANN, zeros skipped", "–", "–", f"{skipping * 1e-6:.2f}", "–", "–")
    for name, report in reports.items():
        table.add_row(
            name,
            f"{report.main_accesses:,.0f}",
            f"{report.access_ratio:.2f}",
            f"{report.snn_pj * 1e-6:.2f}",
            f"{report.exact_pj * 1e-6:.2f}",
            f"{report.total_pj * 1e-6:.2f}",
        )
    return table
