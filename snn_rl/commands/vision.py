"""`snn-rl vision ...`: image classifiers on the same core."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from snn_rl.commands.output import INTERRUPTED, say
from snn_rl.errors import SnnRlError

RUNS = Path("runs") / "vision"

app = typer.Typer(
    help="Train image classifiers and prune them to one timestep.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, e.g. ann.learning_rate=0.05.")
]
DataOption = Annotated[
    Path | None, typer.Option(help="Folder that holds the data set's files [data].")
]


@app.command()
def train(
    dataset: Annotated[
        str | None,
        typer.Option(help="cifar10, cifar100, tiny-imagenet, imagenet, or folder [cifar10]."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="small, vgg6, vgg16 or resnet20 [small].")
    ] = None,
    timesteps: Annotated[
        int | None, typer.Option(help="T of the first spiking stage; 0: ANN only [5].")
    ] = None,
    until: Annotated[int | None, typer.Option(help="T of the last stage [1].")] = None,
    data: DataOption = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file that replaces the preset of DATASET-MODEL.")
    ] = None,
    set_: SetOption = None,
    seed: Annotated[int | None, typer.Option(help="All randomness follows from it [0].")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run folder [runs/vision/DATASET-MODEL/TIME].")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run-dir where it stopped.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda [auto].")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch [1].")] = None,
) -> None:
    """Train an ANN, convert it to spikes, and reduce its timesteps stage by stage.

    Under torchrun its processes share every batch.
    """
    from snn_rl.settings import merge, parse_overrides, read_yaml, shipped, validate
    from snn_rl.vision.config import VisionConfig
    from snn_rl.vision.run import CONFIG

    given: dict[str, Any] = {
        "dataset": dataset,
        "model": model,
        "timesteps": timesteps,
        "until": until,
        "data": str(data) if data else None,
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    options = {key: value for key, value in given.items() if value is not None}
    if resume:
        if run_dir is None or not (run_dir / CONFIG).is_file():
            raise SnnRlError("--resume needs --run-dir with the folder of an earlier run")
        base = read_yaml(run_dir / CONFIG)
    elif config:
        base = read_yaml(config)
    else:
        names = {"dataset": dataset or "cifar10", "model": model or "small"}
        base = shipped(f"vision/{names['dataset']}-{names['model']}") or names
    changes = merge(options, parse_overrides(set_ or []))
    settings = validate(VisionConfig, merge(base, changes), "configuration")
    folder = run_dir or _new_folder(f"{settings.dataset}-{settings.model}")
    if not resume and (folder / CONFIG).exists():
        raise SnnRlError(f"{folder} already holds a run: add --resume or choose another --run-dir")
    train_run(settings, folder)


def train_run(settings: Any, folder: Path) -> None:
    """Train one run into `folder`; Ctrl-C saves and exits."""
    import torch

    from snn_rl.agents.monitors import StopFlag
    from snn_rl.vision.datasets import load_data
    from snn_rl.vision.hardware import open_hardware
    from snn_rl.vision.monitor import FileMonitor, LineMonitor, MonitorGroup
    from snn_rl.vision.run import Interrupted, Run
    from snn_rl.vision.training import Monitor

    torch.set_num_threads(settings.threads)
    stop, files = StopFlag(), FileMonitor(folder)
    with open_hardware(
        settings.device, settings.precision, channels_last=settings.channels_last
    ) as hardware:
        watching: list[Monitor] = [files, LineMonitor(say)] if hardware.leads else []
        monitor = MonitorGroup(watching, lambda: stop.raised)
        command = shlex.join(["snn-rl", *sys.argv[1:]])
        run = Run(settings, load_data(settings), folder, hardware, monitor, command=command)
        if hardware.leads:
            say(f"training {settings.model} on {settings.dataset} into {folder}")
        try:
            with stop.on_signals():
                run.train()
        except Interrupted as interrupted:
            say(f"stopped in stage {interrupted}; --run-dir {folder} --resume goes on from there")
            raise typer.Exit(INTERRUPTED) from None
        finally:
            files.close()
    if hardware.leads:
        say(f"done: snn-rl vision evaluate {shlex.quote(str(folder))}")


def _new_folder(name: str) -> Path:
    """A fresh folder for a run, named by what is trained and the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder, count = RUNS / name / stamp, 1
    while folder.exists():
        folder, count = RUNS / name / f"{stamp}-{count}", count + 1
    return folder
