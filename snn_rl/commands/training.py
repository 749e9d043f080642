"""`snn-rl train`: options to a configuration, then a run with progress and clean endings."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_rl.commands.imports import ImportOption, import_options, import_typed
from snn_rl.commands.output import say, terminal
from snn_rl.commands.running import refuse_options, reproducing, told_how_to_go_on
from snn_rl.errors import SnnRlError

if TYPE_CHECKING:
    from snn_rl.agents.config import TrainConfig


def train(
    env: Annotated[str | None, typer.Option(help="Gymnasium id, e.g. CartPole-v1.")] = None,
    timesteps: Annotated[
        int | None,
        typer.Option(help="T, spiking timesteps per frame, of the first stage; 0: ANN only [5]."),
    ] = None,
    until: Annotated[int | None, typer.Option(help="T of the last stage [1].")] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Environment steps of each stage at most (not spiking timesteps)."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Another preset of the environment, e.g. paper for Pong.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file that replaces the environment's preset.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. ann.learning_rate=5e-4.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="All randomness follows from it [0].")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Who labels frames: self, full_state, stack:N, or an agent."),
    ] = None,
    stack: Annotated[
        int | None, typer.Option(help="Frames the network sees at once; 1: memory in membranes.")
    ] = None,
    maxpool: Annotated[
        bool | None, typer.Option(help="Atari frames show the maximum of two raw ones [no].")
    ] = None,
    sticky: Annotated[
        float | None, typer.Option(help="Probability of a repeated action [as the id has it].")
    ] = None,
    flicker: Annotated[float | None, typer.Option(help="Probability of a blank frame [0].")] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Agent whose weights the run starts from, without replay."),
    ] = None,
    no_carry: Annotated[
        bool, typer.Option("--no-carry", help="Zero the membranes at every frame.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run-dir [newest run].")
    ] = False,
    run_dir: Annotated[Path | None, typer.Option(help="Run folder [runs/ENV/TIME].")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda [auto].")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch [1].")] = None,
    import_: ImportOption = None,
) -> None:
    """Train an ANN, convert it to spikes, and reduce its timesteps stage by stage."""
    from snn_rl.agents.config import make_config
    from snn_rl.agents.results import run_folder, run_to_resume
    from snn_rl.agents.sources import imported_settings, settings_for
    from snn_rl.runs.folder import RUNS
    from snn_rl.runs.owner import remove_if_empty
    from snn_rl.support.settings import override, read_yaml

    named: dict[str, Any] = {
        "env": env,
        "timesteps": timesteps,
        "until": until,
        "seed": seed,
        "teacher": teacher,
        "stack": stack,
        "maxpool": maxpool,
        "sticky": sticky,
        "flicker": flicker,
        "start": start,
        "device": device,
        "threads": threads,
        "carry_membrane": False if no_carry else None,
    }
    options: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if steps is not None:
        stages = ["privileged", "spiking"]
        if not imported_settings(start):  # which is taken as it is
            stages.append("ann")
        options |= {stage: {"steps": steps} for stage in stages}
        options["spiking"]["steps_at"] = None
    if resume:
        refuse_options(options, config, set_, preset, but="--run-dir and --import")
        modules = import_typed(import_)
        folder, settings, command = run_to_resume(run_dir)
    elif config and preset:
        raise SnnRlError("--config and --preset are two sets of settings: leave one out")
    else:
        changes = set_ or []
        options = override(options, changes)
        modules = import_typed(import_, str(options.get("env", "")))
        base = settings_for(options, preset, read_yaml(config) if config else None)
        settings = make_config(override(base, changes))
        folder, command = run_folder(run_dir, settings.env), reproducing(sys.argv[1:])
    try:
        _train(settings, folder, command, modules, fresh=not resume)
    finally:
        if run_dir is None:
            remove_if_empty(folder, RUNS)


def _train(
    settings: TrainConfig, folder: Path, command: str, modules: Sequence[str], *, fresh: bool
) -> None:
    """Train and show progress; signals end it cleanly."""
    from snn_rl.agents.monitor import Monitor, file_monitor
    from snn_rl.agents.run import Run
    from snn_rl.commands.progress import ConsoleMonitor
    from snn_rl.runs.monitor import MonitorGroup, StopFlag
    from snn_rl.support.allocator import keep_freed_memory

    keep_freed_memory()
    named = import_options(modules)
    with (
        told_how_to_go_on(folder, "snn-rl train", named),
        closing(file_monitor(folder)) as files,
        StopFlag().on_signals() as stop,
        ConsoleMonitor(terminal) as bars,
    ):
        monitor: Monitor = MonitorGroup([files, bars], stop)
        run = Run(settings, folder, monitor, command=command, fresh=fresh)
        say(f"training {settings.env} into {folder}")
        run.train()
    say(f"done: snn-rl evaluate --agent {shlex.quote(str(folder))}{named}")
