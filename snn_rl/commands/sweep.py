"""`snn-rl sweep`: options to a manifest of runs, then all of them with one view and a clean end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_rl.commands.imports import ImportOption, import_options, import_typed
from snn_rl.commands.output import FAILURE, INTERRUPTED, say, show_json, terminal
from snn_rl.commands.running import reproducing
from snn_rl.errors import SnnRlError

if TYPE_CHECKING:
    from snn_rl.agents.sweep.api import SweepResult
    from snn_rl.agents.sweep.manifest import Sweep


def sweep(
    env: Annotated[str | None, typer.Option(help="Gymnasium id, e.g. CartPole-v1.")] = None,
    seeds: Annotated[
        str, typer.Option(help="Number of seeds, from 0 on, or a range such as 10-14.")
    ] = "5",
    grid: Annotated[
        list[str] | None,
        typer.Option(help="Values of a setting, key=a,b,c; several give all combinations."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Another preset of the environment, e.g. paper for Pong.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file that replaces the environment's preset.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of all runs, e.g. timesteps=3.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at once [one per core, or what the cluster takes]."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Ray cluster: HOST:PORT of its head; auto: the one of this machine."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of all runs [runs/ENV/TIME].")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in --out [newest sweep].")
    ] = False,
    import_: ImportOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The outcome as JSON on stdout.")] = False,
) -> None:
    """Train many runs of one environment: over seeds and settings, here or on a Ray cluster."""
    from snn_rl.agents.sweep.api import sweep_to_resume

    if resume:
        if env or grid or preset or config or set_ or seeds != "5":
            raise SnnRlError("--resume keeps the sweep's settings: give --out alone")
        modules = import_typed(import_)
        work = sweep_to_resume(out)
    else:
        modules = import_typed(import_, env)
        work = _new(env, seeds, grid or [], preset, config, set_ or [], out)
    count = len(work.cells)
    say(f"sweep of {count} run{'s' * (count > 1)} in {work.folder}")
    result = _run(work, workers, ray, modules)
    _tell(result, as_json, modules)


def _new(
    env: str | None,
    seeds: str,
    grid: list[str],
    preset: str | None,
    config: Path | None,
    overrides: list[str],
    out: Path | None,
) -> Sweep:
    from snn_rl.agents.presets import with_preset
    from snn_rl.agents.sweep.api import new_sweep
    from snn_rl.agents.sweep.manifest import parse_grid, parse_seeds
    from snn_rl.support.settings import merge, parse_overrides, read_yaml

    if config and preset:
        raise SnnRlError("--config and --preset are two sets of settings: leave one out")
    options: dict[str, Any] = {} if env is None else {"env": env}
    options = merge(options, parse_overrides(overrides))
    settings = merge(read_yaml(config), options) if config else with_preset(options, preset)
    command = reproducing(sys.argv[1:])
    return new_sweep(settings, parse_seeds(seeds), parse_grid(grid), out, command)


def _run(work: Sweep, workers: int | None, ray: str | None, modules: Sequence[str]) -> SweepResult:
    from snn_rl.agents.sweep.api import run_sweep
    from snn_rl.agents.sweep.progress import SweepView
    from snn_rl.runs.folder import Interrupted

    again = _resuming(work.folder, modules)
    try:
        with SweepView(terminal) as view:
            return run_sweep(work, workers=workers, ray=ray, show=view, imports=modules)
    except (Interrupted, KeyboardInterrupt):
        say(f"stopped; all runs are saved in {work.folder}")
        say(f"go on with: {again}")
        raise typer.Exit(INTERRUPTED) from None


def _tell(result: SweepResult, as_json: bool, modules: Sequence[str]) -> None:
    """Say what came of it; exit status 1 where a cell failed."""
    folder = shlex.quote(str(result.folder))
    for name, reason in result.failed.items():
        say(f"failed: {name}: {reason}")
    if result.restarts:
        say(f"{result.restarts} worker(s) died; their runs went on from their last save")
    if as_json:
        runs = {name: str(run) for name, run in result.runs.items()}
        show_json({"folder": str(result.folder), "runs": runs, "failed": result.failed})
    if result.failed:
        say(f"once the cause is removed, go on with: {_resuming(result.folder, modules)}")
        raise typer.Exit(FAILURE)
    say(
        f"done: snn-rl evaluate --agent {folder}{import_options(modules)} && snn-rl report {folder}"
    )


def _resuming(folder: Path, modules: Sequence[str]) -> str:
    return f"snn-rl sweep --resume --out {shlex.quote(str(folder))}{import_options(modules)}"
