"""Sweeps from Python: one call for many runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snn_rl.agents.presets import with_preset
from snn_rl.agents.setup import Setup
from snn_rl.agents.sweep.local import LocalWorkers
from snn_rl.agents.sweep.manifest import (
    MANIFEST,
    Cell,
    Sweep,
    check_release,
    is_sweep,
    make_sweep,
    newest_sweep,
    read_sweep,
)
from snn_rl.agents.sweep.ray_cluster import STOP, RayWorkers
from snn_rl.agents.sweep.scheduler import Course, run_cells
from snn_rl.envs import import_environments, split_id
from snn_rl.errors import SnnRlError
from snn_rl.runs.folder import FIGURES, REPORT, RUNS, Interrupted
from snn_rl.runs.monitor import StopFlag
from snn_rl.runs.owner import foreign, make_folder, own, remove_if_empty

Show = Callable[[Course], None]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep led to.

    Attributes:
        folder: of the sweep; `snn-rl report` and `snn-rl evaluate --agent` take it.
        runs: folders of the finished cells by name.
        failed: why each of the others failed, by name.
        restarts: how many workers died and were replaced.
        seconds: of wall-clock time.
    """

    folder: Path
    runs: dict[str, Path]
    failed: dict[str, str]
    restarts: int
    seconds: float


def sweep(
    config: Mapping[str, Any] | str | None = None,
    *,
    seeds: int | Sequence[int] = 5,
    grid: Mapping[str, Sequence[Any]] | None = None,
    preset: str | None = None,
    out: str | Path | None = None,
    workers: int | None = None,
    ray: str | None = None,
    resume: bool = False,
    imports: Sequence[str] = (),
) -> SweepResult:
    """Train one run for each combination of the grid's values with each seed.

    Every run is trained in another process: an environment of your own is named with the module
    that registers it, "module:Name-v0". A cell that fails does not end the others.

    Args:
        config: an environment id (its preset, or defaults), or settings on top of the preset of
            their "env"; not with `resume`.
        seeds: a number N for 0 … N-1, or the seeds themselves.
        grid: values by dotted key, e.g. {"ann.learning_rate": [1e-3, 5e-4]}.
        preset: another preset of the environment than its first one.
        out: where everything is written; by default runs/<env>/<time>.
        workers: runs at once; by default as many as there are cores for, or as the cluster takes.
        ray: address of a Ray cluster to train on, "auto" for the one that runs here; all of its
            nodes must see `out`.
        resume: go on with the sweep in `out` (by default the newest), failed cells included.
        imports: modules that register environments; the one of a `module:id` need not be named,
            except with `resume`, where it would be read from a file.

    Raises:
        SnnRlError: bad settings, no such cluster, or a folder that already holds something else.
        Interrupted: SIGINT or SIGTERM arrived; all that was reached is saved.
    """
    if resume:
        if config is not None or grid or preset:
            raise SnnRlError("a sweep that is gone on with keeps its settings: give out= alone")
        work = sweep_to_resume(Path(out) if out else None)
    else:
        settings = {"env": config} if isinstance(config, str) else dict(config or {})
        module = split_id(str(settings.get("env", "")))[0]
        imports = [*imports, module] if module else imports
        chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        work = new_sweep(
            with_preset(settings, preset), chosen, grid or {}, out, "snn_rl.sweep(...)"
        )
    return run_sweep(work, workers=workers, ray=ray, imports=imports)


def new_sweep(
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    grid: Mapping[str, Sequence[Any]],
    out: str | Path | None,
    command: str,
) -> Sweep:
    """A fresh sweep, which `run_sweep` writes before it begins.

    Raises:
        SnnRlError: bad settings, or the folder holds a sweep already.
        OSError: its folder cannot be made.
    """
    if "env" not in settings:
        raise SnnRlError("no environment is named: set env (--env), e.g. CartPole-v1")
    work = make_sweep(Path(out or "."), settings, seeds, grid, command)
    if out is None:
        folder = make_folder(RUNS / work.env.replace("/", "-"))
        work = replace(work, folder=folder.absolute())
    elif is_sweep(work.folder) or any(work.folder.glob("config.yaml")):
        raise SnnRlError(f"{out} already holds a sweep or a run: choose another --out, or --resume")
    elif work.folder.exists() and not work.folder.is_dir():
        raise SnnRlError(f"{out} is no folder: choose another --out")
    elif taken := _written_over(work):
        raise SnnRlError(
            f"{out} holds {taken[0]}, which a sweep would write over: choose another --out"
        )
    return work


def _written_over(sweep: Sweep) -> list[str]:
    """What is in a new sweep's folder under names that a sweep gives."""
    names = [*(Path(cell.name).parts[0] for cell in sweep.cells), STOP, REPORT, FIGURES, MANIFEST]
    return [n for n in names if os.path.lexists(sweep.folder / n)] + foreign(sweep.folder)


def sweep_to_resume(folder: Path | None) -> Sweep:
    """The sweep in `folder`, by default the newest below runs/.

    Raises:
        SnnRlError: there is none, or this release of snn-rl must not go on with it.
    """
    work = read_sweep(folder or newest_sweep(RUNS))
    check_release(work)
    return work


def run_sweep(
    sweep: Sweep,
    *,
    workers: int | None = None,
    ray: str | None = None,
    show: Show = lambda _: None,
    only: Sequence[Cell] | None = None,
    imports: Sequence[str] = (),
) -> SweepResult:
    """Write the sweep and train its cells that are not finished yet.

    Args:
        show: is called with the cells' states again and again.
        only: these cells, by default all.
        imports: modules that register environments.

    Raises:
        SnnRlError: see `sweep`.
        Interrupted: a signal arrived; all that was reached is saved.
    """
    began = time.monotonic()
    with (
        StopFlag().on_signals() as stop,
        _made(sweep, imports),
        _workers(sweep, workers, ray, imports) as crew,
        own(sweep.folder),
    ):
        sweep.write()
        course = run_cells(sweep, crew, lambda: stop.raised, show, only)
    if stop.raised and (course.named("stopped") or course.named("waiting")):
        raise Interrupted(", ".join(course.named("stopped")) or "none")
    runs = {name: sweep.folder / name for name in course.named("done")}
    seconds = time.monotonic() - began
    return SweepResult(sweep.folder, runs, course.reasons, course.restarts, seconds)


@contextmanager
def _made(sweep: Sweep, modules: Sequence[str]) -> Iterator[None]:
    """The folder, of which nothing is left if the sweep is refused before it is written.

    What does not fit the first cell fits none, most likely: a new sweep is refused for it.
    """
    missing = [folder for folder in (sweep.folder, *sweep.folder.parents) if not folder.exists()]
    sweep.folder.mkdir(parents=True, exist_ok=True)
    try:
        if not is_sweep(sweep.folder):
            for module in modules:
                import_environments(module)
            Setup(sweep.cells[0].config.model_copy(update={"device": "cpu"}))  # not the workers'
        yield
    except BaseException:
        remove_if_empty(sweep.folder, missing[-1] if missing else RUNS.absolute())
        raise


def _workers(
    sweep: Sweep, count: int | None, ray: str | None, imports: Sequence[str]
) -> AbstractContextManager[LocalWorkers | RayWorkers]:
    if count is not None and count < 1:
        raise SnnRlError(f"{count} workers cannot train anything: set --workers to 1 at least")
    if ray is not None:
        return RayWorkers(ray, sweep.folder, count, imports)
    if count is None:
        threads = max(cell.config.threads for cell in sweep.cells)
        count = max(1, cores() // threads)
    return LocalWorkers(count, imports)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
