"""The tables that commands print: one function each, from rows to a table of rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Column, Table


def evaluation_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Table of `snn-rl evaluate`: one row per stage."""
    title, limit = f"{rows[0]['env']}, {rows[0]['trials']} trials", rows[0]["max_frames"]
    if rows[0]["exact"]:
        title += ", all starts there are: the means are exact"
    if limit:
        title += f", cut off after {limit:,} frames"
    heads = ["stage", "T", "mean ± std", "error", "min", "max", "distinct"]
    counts = {"failures": "failures", "validation_starts": "validated"}
    shown = {key: head for key, head in counts.items() if any(row[key] for row in rows)}
    table = Table(*heads, *shown.values(), "spikes", "α", title=title)
    for row in rows:
        table.add_row(
            row["stage"],
            str(row["timesteps"]) if row["spike_rates"] else "–",
            mean_and_deviation(row),
            "–" if row["standard_error"] is None else f"{row['standard_error']:.2f}",
            f"{min(row['rewards']):g}",
            f"{max(row['rewards']):g}",
            str(row["distinct_trials"]),
            *("–" if row[key] is None else str(row[key]) for key in shown),
            f"{row['spike_rate']:.3f}" if row["spike_rates"] else "–",
            f"{row['alpha']:.2f}",
        )
    if "validation_starts" in shown:
        table.caption = "validated: trials that begin as one did that chose the agent's weights"
    return table


def text_table(rows: Sequence[Mapping[str, str]], title: str) -> Table:
    """Rows of text by column, without the columns in which none has anything but a dash."""
    heads = [head for head in rows[0] if any(row[head] != "–" for row in rows)]
    table = Table(*heads, title=title)
    for row in rows:
        table.add_row(*(escape(row[head]) for head in heads))
    return table


def mean_and_deviation(scores: Mapping[str, Any]) -> str:
    """Mean ± standard deviation of an agent's scores; two decimals where the mean is exact."""
    digits = 2 if scores.get("exact") else 1
    return f"{scores['mean_reward']:.{digits}f} ± {scores['std_reward']:.{digits}f}"


def zoo_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Table of `snn-rl zoo`: one row per shipped agent."""
    agent = Column("agent", no_wrap=True)  # to be copied
    table = Table(
        agent, "T", "mean ± std", "trials", "spikes", "α", "teacher", "training", box=None
    )
    for row in rows:
        scores, made = row.get("results", {}), row.get("provenance", {})
        played, spiking = "mean_reward" in scores, bool(scores.get("spike_rates"))
        table.add_row(
            f"zoo:{row['name']}",
            str(row["timesteps"]) if spiking else "–",
            mean_and_deviation(scores) if played else "–",
            "all" if scores.get("exact") else str(scores.get("trials", "–")),
            f"{scores['spike_rate']:.3f}" if spiking else "–",
            f"{scores['alpha']:.2f}" if "alpha" in scores else "–",
            row.get("teacher") or "–",
            f"{made.get('steps', 0):,} steps, {made.get('seconds', 0) / 60:.1f} min",
        )
    return table


def step_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Table of `snn-rl benchmark step`."""
    table = Table("network", "stage", "ms per update", "× ANN", "× ANN / T")
    for row in rows:
        table.add_row(
            row["network"],
            row["stage"],
            f"{row['ms']:.1f}",
            f"{row['ratio']:.2f}" if "ratio" in row else "1",
            f"{row['ratio_per_T']:.2f}" if "ratio" in row else "–",
        )
    return table


def act_table(found: Mapping[str, Any]) -> Table:
    """Table of `snn-rl benchmark act`."""
    low, high = found["load"]
    title = f"{found['processor']}, one thread, load of the machine {low:.1f} to {high:.1f}"
    table = Table("contender", "median µs", "p99 µs", "float32 values", title=title)
    for row in found["rows"]:
        table.add_row(
            row["contender"],
            f"{row['median_us']:.1f}",
            f"{row['p99_us']:.1f}",
            "yes" if row["exact"] else "no",
        )
    if found["scores"]:
        scores = ", ".join(f"{name} {score:.2f}" for name, score in found["scores"].items())
        table.caption = f"mean score over all starts: {scores}"
    return table


def lif_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Table of `snn-rl benchmark lif`."""
    table = Table("contender", "T", "shape", "forward ms", "backward ms", "time over ours")
    for row in rows:
        table.add_row(
            row["contender"],
            str(row["T"]),
            " × ".join(map(str, row["shape"])),
            f"{row['forward_ms']:.2f}",
            f"{row['backward_ms']:.2f}",
            f"{row['ratio']:.2f}",
        )
    return table


def throughput_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Table of `snn-rl benchmark train`."""
    table = Table("contender", "steps/s", "× rival", "ms per update", "bytes per transition")
    for row in rows:
        table.add_row(
            row["contender"],
            f"{row['steps_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['update_ms']:.1f}",
            f"{row['bytes_per_transition']:,.0f}",
        )
    return table
