"""`snn-rl vision ...`: image classifiers on the same core."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_rl.commands.output import FigureOption, say, show, show_energy, show_json
from snn_rl.commands.running import refuse_options, reproducing, told_how_to_go_on
from snn_rl.errors import SnnRlError

if TYPE_CHECKING:
    from snn_rl.energy.report import EnergyReport
    from snn_rl.vision.config import VisionConfig

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
RunArgument = Annotated[
    Path | None, typer.Argument(help="Run folder, or one of its stages [newest run].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")]
LimitOption = Annotated[
    int | None, typer.Option(min=1, help="Look at so many test images only [all].")
]


@app.command()
def train(
    dataset: Annotated[
        str | None,
        typer.Option(help="cifar10, cifar100, tiny-imagenet, imagenet, or folder [cifar10]."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="small, fast, vgg6, vgg16 or resnet20 [small].")
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
        bool, typer.Option("--resume", help="Go on with the run in --run-dir [newest run].")
    ] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda [auto].")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch [1].")] = None,
) -> None:
    """Train an ANN, convert it to spikes, and reduce its timesteps stage by stage.

    Under torchrun its processes share every batch.
    """
    from snn_rl.runs.folder import new_folder, to_resume, unfinished
    from snn_rl.runs.owner import remove_if_empty
    from snn_rl.support.settings import merge, override, read_yaml, shipped, validate
    from snn_rl.vision.config import KEY, VisionConfig, read_config

    named: dict[str, Any] = {
        "dataset": dataset,
        "model": model,
        "timesteps": timesteps,
        "until": until,
        "data": str(data) if data else None,
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    options = {key: value for key, value in named.items() if value is not None}
    if run_dir is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SnnRlError("under torchrun all processes need the same folder: name it by --run-dir")
    if resume:
        refuse_options(options, config, set_)
        folder = to_resume(run_dir, RUNS, KEY)
        settings, command = unfinished(folder, read_config)
    else:
        names = {"dataset": dataset or "cifar10", "model": model or "small"}
        preset = shipped(f"vision/{names['dataset']}-{names['model']}") or names
        base = read_yaml(config) if config else preset
        chosen = override(merge(base, options), set_ or [])
        settings = validate(VisionConfig, chosen, "configuration")
        folder = new_folder(run_dir, RUNS / f"{settings.dataset}-{settings.model}")
        command = reproducing(sys.argv[1:])
    try:
        _train(settings, folder, command, fresh=not resume)
    finally:
        if run_dir is None:
            remove_if_empty(folder, RUNS.parent)


@app.command()
def evaluate(
    run: RunArgument = None,
    timesteps: Annotated[
        int | None, typer.Option(min=1, help="Run spiking stages at another T.")
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(help="One classifier: its folder, or zoo:DATASET-MODEL/STAGE.")
    ] = None,
    data: DataOption = None,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accuracy, spike rates and energy of every stage of a run on the test set."""
    from snn_rl.runs.folder import CONFIG
    from snn_rl.vision.classifier import CLASSIFIERS
    from snn_rl.vision.scoring import save_evaluation
    from snn_rl.vision.tables import evaluation_table

    if run and classifier:
        raise SnnRlError("name a run or a --classifier, not both")
    folder = CLASSIFIERS.find(classifier) if classifier else run or _newest_run()
    rows: list[dict[str, Any]] = []
    try:
        for row, _ in _scores(folder, data, limit, timesteps):
            rows.append(row)
    finally:  # what was scored is shown, whatever comes between
        if rows and as_json:
            show_json(rows)
        elif rows:
            show(evaluation_table(rows))
        sys.stdout.flush()
    if (folder / CONFIG).is_file() and timesteps is None and limit is None:
        save_evaluation(folder, rows)


@app.command()
def zoo(as_json: JsonOption = False) -> None:
    """List the trained classifiers that come with the package."""
    from snn_rl.vision.classifier import CLASSIFIERS
    from snn_rl.vision.tables import zoo_row, zoo_table

    rows = [zoo_row(name) for name in CLASSIFIERS.names()]
    if as_json:
        show_json(rows)
    elif not rows:
        raise SnnRlError("this installation ships no classifiers: snn-rl vision train makes one")
    else:
        show(zoo_table(rows))


@app.command()
def energy(
    run: RunArgument = None,
    data: DataOption = None,
    limit: LimitOption = 1000,
    figure: FigureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Operations, memory accesses and energy per image, layer by layer, at real spike rates."""
    folder = run or _newest_run()
    reports = {row["stage"]: found for row, found in _scores(folder, data, limit, None)}
    if as_json:
        show_json([{"stage": name} | found.to_dict() for name, found in reports.items()])
    show_energy(reports, "image", figure, tables=not as_json)


@app.command()
def report(run: RunArgument = None) -> None:
    """Write report.md with the tables and figures of a run."""
    from snn_rl.vision.report import write_report

    sys.stdout.write(f"{write_report(run or _newest_run())}\n")


@app.command()
def experiment(
    name: Annotated[str | None, typer.Argument(help="Leave it out for a list.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run of the experiment to do.")] = None,
    data: DataOption = None,
    set_: SetOption = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the runs [runs/vision/NAME].")
    ] = None,
) -> None:
    """Do the paper's experiments: train every run, evaluate it, compare. Finished runs are kept."""
    from snn_rl.runs.checkpoint import write_text
    from snn_rl.runs.folder import CONFIG, new_folder
    from snn_rl.support.settings import merge, parse_overrides
    from snn_rl.vision.experiments import comparison, experiments, load_experiment, settings_of_run
    from snn_rl.vision.scoring import read_evaluation

    if name is None:
        sys.stdout.write("".join(f"{n:8} {load_experiment(n).about}\n" for n in experiments()))
        return
    plan, folder = load_experiment(name), run_dir or RUNS / name
    if unknown := set(only or []) - plan.runs.keys():
        raise SnnRlError(f"{name} has no run {sorted(unknown)}; there are {', '.join(plan.runs)}")
    changes = merge({"data": str(data)} if data else {}, parse_overrides(set_ or []))
    compared = folder / "comparison.md"
    if compared.exists() and not any((folder / run / CONFIG).exists() for run in plan.runs):
        raise SnnRlError(f"{compared} is no experiment's: choose another --run-dir")
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in only or plan.runs:
        settings = settings_of_run(plan, run, folder, changes)
        if not (folder / run / CONFIG).exists():
            new_folder(folder / run, folder)  # or it is another's
        _train(settings, folder / run, reproducing(sys.argv[1:]), fresh=False)
        evaluate(folder / run)
        report(folder / run)
        rows[run] = read_evaluation(folder / run)
        write_text(compared, comparison(plan, rows))
    sys.stdout.write(f"{compared}\n")


def _train(settings: VisionConfig, folder: Path, command: str, *, fresh: bool) -> None:
    """Train and show progress; signals end it cleanly."""
    import torch

    from snn_rl.runs.monitor import MonitorGroup, StopFlag
    from snn_rl.support.allocator import keep_freed_memory
    from snn_rl.vision.datasets import load_data
    from snn_rl.vision.monitor import LineMonitor, Monitor, file_monitor
    from snn_rl.vision.precision import settled
    from snn_rl.vision.process import open_process
    from snn_rl.vision.run import Run

    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    settings = settled(settings, folder, int(os.environ.get("WORLD_SIZE", "1")))
    stop = StopFlag()
    with (
        told_how_to_go_on(folder, "snn-rl vision train"),
        closing(file_monitor(folder)) as files,
        open_process(
            settings.device, settings.precision, channels_last=settings.channels_last
        ) as process,
        stop.on_signals(),
    ):
        watching: list[Monitor] = [files, LineMonitor(say)] if process.leads else []
        monitor = MonitorGroup(watching, stop)
        data = load_data(settings)
        run = Run(settings, data, folder, process, monitor, command=command, fresh=fresh)
        if process.leads:
            say(f"training {settings.model} on {settings.dataset} into {folder}")
        run.train()
    if process.leads:
        say(f"done: snn-rl vision evaluate {shlex.quote(str(folder))}")


def _scores(
    folder: Path, data: Path | None, limit: int | None, timesteps: int | None
) -> Iterator[tuple[dict[str, Any], EnergyReport]]:
    """Row and energy of every stage on the test set."""
    from snn_rl.vision.classifier import CLASSIFIERS, load_classifier, stage_folders
    from snn_rl.vision.datasets import load_test
    from snn_rl.vision.process import open_process
    from snn_rl.vision.scoring import ann_densities, score, settings_of

    stages = stage_folders(folder)
    settings = settings_of(folder, data)
    anns = [CLASSIFIERS.find(settings.ann_from)] if settings.ann_from else []
    with open_process(settings.device, "float32", channels_last=settings.channels_last) as process:
        test = load_test(settings)
        densities = ann_densities([*stages, *anns], test, process)
        for stage in stages:
            say(f"evaluating {stage} ...")
            yield score(
                load_classifier(stage),
                test,
                process,
                timesteps=timesteps,
                limit=limit,
                densities=densities,
            )


def _newest_run() -> Path:
    from snn_rl.runs.folder import newest_run
    from snn_rl.vision.config import KEY

    run = newest_run(RUNS, KEY)
    if run is None:
        raise SnnRlError("there is no run yet: start one with snn-rl vision train")
    return run
