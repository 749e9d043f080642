"""Does a sweep survive kill -9? Its weights, after many kills, against those of `snn-rl train`.

    python benchmarks/sweep_kills.py --out runs/kills

Trains the same small CartPole runs three times: one after the other and undisturbed; as a sweep of
two workers, of which a random one is killed again and again; as a sweep on a Ray cluster of two
nodes on this machine, of which the second is killed, its raylet first, and replaced. Only workers
and nodes that have saved something since they started are killed. Every final weight must be the
same, bit for bit, and no run that is finished may be begun again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comparing import positive, run_script, say
from ray_nodes import Node, node

from snn_rl.agents.sweep.manifest import Sweep, make_sweep
from snn_rl.agents.sweep.scheduler import last_save
from snn_rl.errors import SnnRlError
from snn_rl.runs.owner import OWNER

COMMAND = [sys.executable, "-m", "snn_rl"]
SETTINGS: dict[str, Any] = {
    "env": "CartPole-v1",
    "timesteps": 2,
    "hidden": [32],
    "save_every": 0.0,
    "validation": {"episodes": 4, "every": 4096, "target": None},
}
PAUSE = 0.1


@dataclass
class Watch:
    """What is seen of a sweep's runs from outside.

    Attributes:
        owners: generation of the owner, by name of the finished runs, when they were first seen.
        saves: last save of a run and the process that was its owner then, by name.
    """

    sweep: Sweep
    owners: dict[str, int] = field(default_factory=dict)
    saves: dict[str, tuple[int, object]] = field(default_factory=dict)

    def look(self) -> list[int]:
        """Note what is finished; process ids of the owners that have saved something."""
        ready = []
        for cell in self.sweep.cells:
            run = self.sweep.path(cell)
            owner = _owner(run)
            if self.sweep.finished(cell):
                self.owners.setdefault(cell.name, owner["generation"])
            elif owner:
                now = last_save(run)
                known, before = self.saves.setdefault(cell.name, (owner["process"], now))
                if known != owner["process"]:
                    self.saves[cell.name] = owner["process"], now
                elif before != now and Path(f"/proc/{known}").exists():
                    ready.append(known)
        return ready


def _owner(run: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run / OWNER).read_text())
        return found
    except (OSError, ValueError):
        return {}


def train_in_peace(sweep: Sweep) -> None:
    """Each run by `snn-rl train`, one after the other."""
    for cell in sweep.cells:
        if not sweep.finished(cell):
            command = [*COMMAND, "train", "--resume", "--run-dir", str(sweep.path(cell))]
            subprocess.run(command, check=True, capture_output=True)


def disturb(sweep: Sweep, options: list[str], count: int, kill: Callable[[list[int]], bool]) -> int:
    """Run the sweep and call `kill` with those that may be killed until it has killed `count`
    times; returns how often it did.

    Raises:
        SnnRlError: the sweep failed, or began a finished run again.
    """
    watch, kills = Watch(sweep), 0
    command = [*COMMAND, "sweep", "--resume", "--out", str(sweep.folder), *options]
    with (sweep.folder / "sweep.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    while process.poll() is None:
        ready = watch.look()
        if ready and kills < count and kill(ready):
            kills += 1
            say(f"kill {kills} of {count}")
        time.sleep(PAUSE)
    watch.look()
    if process.returncode:
        raise SnnRlError(f"the sweep failed, see {sweep.folder / 'sweep.log'}")
    for name, generation in watch.owners.items():
        if _owner(sweep.folder / name)["generation"] != generation:
            raise SnnRlError(f"{name} was finished and began again")
    return kills


def kill_random(generator: random.Random) -> Callable[[list[int]], bool]:
    """Kills one of the processes, none of them twice."""
    killed: set[int] = set()

    def kill(ready: list[int]) -> bool:
        alive = sorted(set(ready) - killed)
        if not alive:
            return False
        chosen = generator.choice(alive)
        killed.add(chosen)
        os.kill(chosen, signal.SIGKILL)
        return True

    return kill


class SecondNode:
    """The cluster's other node, which is killed and replaced."""

    def __init__(self, head: Node, stack: ExitStack) -> None:
        self.head, self.stack = head, stack
        self.node = stack.enter_context(node(join=head))

    def kill(self, ready: list[int]) -> bool:
        """Kill the node if one of the processes works on it, and start another one."""
        if self.node.raylet() not in {_parent(pid) for pid in ready}:
            return False
        self.node.kill()
        self.node = self.stack.enter_context(node(join=self.head))
        return True


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def compare(sweep: Sweep, peace: Sweep) -> int:
    """How many files of weights are the same. Raises SnnRlError where one differs."""
    files = sorted(path.relative_to(peace.folder) for path in peace.folder.rglob("weights.*"))
    for file in files:
        if (sweep.folder / file).read_bytes() != (peace.folder / file).read_bytes():
            raise SnnRlError(f"{file} differs")
    return len(files)


def main(options: argparse.Namespace) -> None:
    """Train thrice and compare."""
    out = Path(options.out).resolve()
    stage = {"ann": {"steps": options.steps}, "spiking": {"steps": options.steps}}
    peace, killed, cluster = (
        make_sweep(
            out / name, {**SETTINGS, **stage}, range(options.runs), {}, "benchmarks/sweep_kills.py"
        )
        for name in ("peace", "workers", "ray")
    )
    for sweep in (peace, killed, cluster):
        sweep.write()
    train_in_peace(peace)
    generator = random.Random(options.seed)
    kills = disturb(killed, ["--workers", "2"], options.kills, kill_random(generator))
    _say_result("workers", kills, options.kills, compare(killed, peace))
    with ExitStack() as stack:
        head = stack.enter_context(node())
        other = SecondNode(head, stack)
        kills = disturb(cluster, ["--ray", head.address], options.node_kills, other.kill)
    _say_result("Ray nodes", kills, options.node_kills, compare(cluster, peace))


def _say_result(what: str, kills: int, wanted: int, same: int) -> None:
    if kills < wanted:
        raise SnnRlError(
            f"all ended after {kills} kills of {what}: raise --steps, and another --out"
        )
    sys.stdout.write(f"{kills} {what} killed: all {same} weights are those of snn-rl train\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    form = argparse.RawDescriptionHelpFormatter
    result = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = result.add_argument
    add("--out", required=True, help="folder of all runs")
    add("--runs", type=positive, default=4, help="runs of each sweep [4]")
    add("--steps", type=positive, default=65_536, help="of each of the three stages [65536]")
    add("--kills", type=positive, default=20, help="of workers [20]")
    add("--node-kills", type=positive, default=2, help="of Ray nodes [2]")
    add("--seed", type=int, default=0, help="chooses who is killed [0]")
    return result


if __name__ == "__main__":
    arguments = parser().parse_args()
    sys.exit(run_script(lambda: main(arguments)))
