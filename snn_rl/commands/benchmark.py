"""`snn-rl benchmark ...`: speed, measured on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from snn_rl.commands.output import show, show_json

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@app.command()
def step(
    repeats: Annotated[int, typer.Option(min=1, help="Timed updates of each network.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
) -> None:
    """Training step of the spiking network against the ANN's on the same frames."""
    from snn_rl.agents.benchmark import training_step_ratios
    from snn_rl.console import step_table

    rows = training_step_ratios(repeats)
    if as_json:
        show_json(rows)
    else:
        show(step_table(rows))
