"""What a sweep costs: its two workers against two `snn-rl train` side by side.

    python benchmarks/sweep_workers.py --out runs/workers

Both train the same two CartPole runs, by turns, several times. Printed is the time of the two
independent processes divided by the sweep's: 1 where the sweep costs nothing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from comparing import positive, run_script, say

from snn_rl.agents.sweep.manifest import Sweep, make_sweep
from snn_rl.errors import SnnRlError

COMMAND = [sys.executable, "-m", "snn_rl"]
SETTINGS: dict[str, Any] = {"env": "CartPole-v1", "timesteps": 1, "validation": {"target": None}}
WORKERS = 2


def seconds(sweep: Sweep, *, independent: bool) -> float:
    """Of wall-clock time for all of the sweep's runs. Raises SnnRlError where one fails."""
    commands = [[*COMMAND, "sweep", "--resume", "--out", str(sweep.folder)]]
    commands[0] += ["--workers", str(WORKERS)]
    if independent:
        runs = [str(sweep.path(cell)) for cell in sweep.cells]
        commands = [[*COMMAND, "train", "--resume", "--run-dir", run] for run in runs]
    began = time.monotonic()
    quiet = subprocess.DEVNULL
    processes = [subprocess.Popen(line, stdout=quiet, stderr=quiet) for line in commands]
    if any([process.wait() for process in processes]):
        raise SnnRlError(f"a run in {sweep.folder} failed")
    return time.monotonic() - began


def main(options: argparse.Namespace) -> None:
    """Measure by turns."""
    out = Path(options.out).resolve()
    stage = {"ann": {"steps": options.steps}, "spiking": {"steps": options.steps}}
    ratios = []
    for turn in range(options.turns):
        took = {}
        # Who begins changes, since the machine's load does, too.
        for kind in ("independent", "sweep")[:: 1 if turn % 2 == 0 else -1]:
            folder = out / f"turn{turn}" / kind
            if folder.exists():
                raise SnnRlError(f"{folder} exists already: choose another --out")
            settings = {**SETTINGS, **stage}
            sweep = make_sweep(folder, settings, range(WORKERS), {}, "benchmarks/sweep_workers.py")
            sweep.write()
            took[kind] = seconds(sweep, independent=kind == "independent")
        ratios.append(took["independent"] / took["sweep"])
        say(f"independent {took['independent']:.1f} s, sweep {took['sweep']:.1f} s")
    sys.stdout.write(
        f"{WORKERS} workers: {statistics.median(ratios):.2f} × {WORKERS} independent processes "
        f"(median of {options.turns} turns; {min(ratios):.2f} to {max(ratios):.2f})\n"
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    form = argparse.RawDescriptionHelpFormatter
    result = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = result.add_argument
    add("--out", required=True, help="folder of all runs")
    add("--steps", type=positive, default=131_072, help="of each of a run's two stages [131072]")
    add("--turns", type=positive, default=5, help="how often both are measured [5]")
    return result


if __name__ == "__main__":
    arguments = parser().parse_args()
    sys.exit(run_script(lambda: main(arguments)))
