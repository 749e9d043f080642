"""What a person sees: bars on a terminal, plain lines elsewhere, tables on narrow screens."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from snn_rl.agents.evaluation import Evaluation
from snn_rl.agents.monitor import Progress
from snn_rl.commands.progress import ConsoleMonitor
from snn_rl.commands.tables import zoo_table


def progress(stage: str, steps: int) -> Progress:
    return Progress(stage, steps, 1000, 5, 2.0, 0.1, 33.0, None, {"spike_rate": 0.25})


def evaluation() -> Evaluation:
    return Evaluation([40.0, 44.0], [40, 44], 0, 2, {})


def test_a_terminal_shows_bars() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with ConsoleMonitor(console) as monitor:
        monitor.progress(progress("ann", 500))
        monitor.validated(progress("ann", 1000), evaluation())
        monitor.progress(progress("T5", 250))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" in shown
    assert "━" in shown
    assert "100%" in shown
    assert "25%" in shown
    assert "validation 42.0" in shown


def test_plain_lines_come_now_and_then_and_at_validations() -> None:
    console = Console(file=io.StringIO(), width=40)
    with ConsoleMonitor(console) as monitor:
        for steps in range(0, 1000, 100):
            monitor.progress(progress("T5", steps))
        monitor.validated(progress("T5", 1000), evaluation())
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    first = " ".join(lines[0].split())
    assert first.startswith("T5 0% 0 steps 0/s ε 0.10 reward 33.0 spikes 0.250 at most ")
    assert "100%  1,000 steps  500/s" in lines[1]
    assert "validation 42.0  at most 0 s left" in lines[1]


def test_names_in_the_zoo_are_whole_on_a_narrow_screen() -> None:
    """Also of agents without scores."""
    console = Console(file=io.StringIO(), width=80)
    scores = {"mean_reward": 1.0, "std_reward": 10.0, "trials": 20, "alpha": 17.89}
    scores |= {"spike_rate": 0.1, "spike_rates": {"a": 0.1}}  # type: ignore[dict-item]
    row = {"timesteps": 5, "teacher": "full_state", "provenance": {"steps": 10**6, "seconds": 999}}
    rows: list[dict[str, Any]] = [
        row | {"name": "PositionOnlyCartPole-v1/ann", "results": scores},
        row | {"name": "PongNoFrameskip-v4/T1", "results": {"validation": 3}},
    ]
    console.print(zoo_table(rows))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(f"zoo:{row['name']}" in shown for row in rows)
