"""Tables of `snn-rl vision` for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


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
