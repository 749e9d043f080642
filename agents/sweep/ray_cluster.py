"""Workers on a Ray cluster: a task for each cell, on whichever node has a core free.

The nodes share the sweep's folder. A task whose worker or node dies is told to the scheduler, which
starts it again elsewhere; the lock and the generation number of a run's owner keep the one that
is believed dead from writing to it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import snn_rl
from snn_rl.agents.config import make_config
from snn_rl.agents.sweep.scheduler import Ending
from snn_rl.errors import SnnRlError
from snn_rl.runs.folder import CONFIG
from snn_rl.support.settings import read_yaml

STOP = "stop"
"""A file in the sweep's folder: while it is there, all save and end."""
SECONDS_TO_ANSWER = 5.0


class RayWorkers:
    """Tasks of the cluster at `address`; use as a context.

    Args:
        address: HOST:PORT of the cluster's head, "auto" for the one that runs here, or ray://….
        sweep: the sweep's folder, which all nodes must see under the same path.
        count: at most so many at once; None leaves it to the cluster.
        modules: register environments; the tasks import them first.

    Raises:
        SnnRlError: Ray is missing, nothing answers at the address, or a node lacks snn-rl or the
            folder.
    """

    def __init__(
        self, address: str, sweep: Path, count: int | None = None, modules: Sequence[str] = ()
    ) -> None:
        self.folder, self.count, self.modules = sweep.absolute(), count, list(modules)
        self.ray = _connect(address)
        self.tasks: dict[Any, Path] = {}
        try:
            self._check_nodes()
        except BaseException:
            self.ray.shutdown()
            raise

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.tasks:
            self.stop()
            self.ray.wait(list(self.tasks), num_returns=len(self.tasks))
            (self.folder / STOP).unlink(missing_ok=True)
        self.ray.shutdown()

    def free(self) -> bool:
        """Whether one more task may be handed to the cluster, where it may have to wait."""
        return self.count is None or len(self.tasks) < self.count

    def start(self, folder: Path) -> None:
        """Hand the cluster a task that trains the run in `folder`."""
        (self.folder / STOP).unlink(missing_ok=True)  # of a sweep that was killed while stopping
        config = make_config(read_yaml(folder / CONFIG), str(folder / CONFIG))
        needs = {"num_cpus": config.threads, "num_gpus": int(config.device == "cuda")}
        # The scheduler starts it again, so that both kinds of workers are treated alike.
        task = self.ray.remote(max_retries=0, scheduling_strategy="SPREAD", **needs)(_task())
        arguments = (str(folder.absolute()), snn_rl.__version__, STOP, self.modules)
        self.tasks[task.remote(*arguments)] = folder

    def ended(self) -> list[tuple[Path, Ending]]:
        """Those whose task has an end."""
        if not self.tasks:
            return []
        over, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0)
        return [(self.tasks.pop(task), self._ending(task)) for task in over]

    def stop(self) -> None:
        """Make the file that asks all to save and end; tasks that still wait do nothing."""
        with suppress(OSError):
            (self.folder / STOP).touch()

    def _ending(self, task: Any) -> Ending:
        errors = self.ray.exceptions
        try:
            kind, reason = self.ray.get(task)
            return Ending(kind, reason)
        except errors.RayTaskError as error:
            return Ending("failed", _first_line(error.cause or error))
        except errors.RayError as error:
            return Ending("died", f"Ray tells of {type(error).__name__}")

    def _check_nodes(self) -> None:
        """Ask every node for its release of snn-rl, and whether it sees the sweep."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = []  # two nodes may share an address
        for node in self.ray.nodes():
            if node["Alive"] and node["Resources"].get("CPU"):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                probe = self.ray.remote(num_cpus=0, scheduling_strategy=there)(_probe())
                asked.append((node["NodeManagerAddress"], probe.remote(str(self.folder))))
        if not asked:
            raise SnnRlError("the Ray cluster has no node with a processor: add one by ray start")
        for name, answer in asked:
            release, sees = self.ray.get(answer)
            if release != snn_rl.__version__:
                has = f"has snn-rl {release}" if release else "lacks snn-rl"
                raise SnnRlError(
                    f"the Ray node {name} {has}: install snn-rl[ray] {snn_rl.__version__} there"
                )
            if not sees:
                raise SnnRlError(
                    f"the Ray node {name} does not see {self.folder}: choose an --out on storage "
                    "that all nodes share"
                )


def _connect(address: str) -> Any:
    try:
        # No usage statistics leave this machine, and an idle cluster prints nothing here.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    except ImportError:
        raise SnnRlError("--ray needs Ray: install snn-rl[ray]") from None
    nobody = f"no Ray cluster answers at {address}: start one by `ray start --head`"
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
        except (OSError, OverflowError):
            raise SnnRlError(nobody) from None
    elif address != "auto":
        raise SnnRlError(f"--ray {address!r} must be HOST:PORT, ray://HOST:PORT or auto")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # of many types, after its own retries
        detail = " ".join(str(error).split())[:200]
        raise SnnRlError(f"{nobody} ({detail})") from None
    return ray


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


# Functions within functions travel to the nodes by value, so that one without snn-rl can say so.


def _probe() -> Any:
    def probe(folder: str) -> tuple[str, bool]:
        import os

        try:
            import snn_rl
        except ImportError:
            return "", False
        return snn_rl.__version__, os.path.isdir(folder)

    return probe


def _task() -> Any:
    def train(folder: str, release: str, stop: str, modules: list[str]) -> tuple[str, str]:
        import platform
        from pathlib import Path

        try:
            import snn_rl
            from snn_rl.agents.sweep.manifest import MANIFEST
            from snn_rl.agents.sweep.worker import train_cell
            from snn_rl.runs.folder import Interrupted
        except ImportError:
            return "failed", f"the node {platform.node()} lacks snn-rl: install snn-rl[ray] there"
        if snn_rl.__version__ != release:
            found = f"the node {platform.node()} has snn-rl {snn_rl.__version__}"
            return "failed", f"{found}: install {release} there"
        sweep = next(p for p in Path(folder).parents if (p / MANIFEST).exists())
        try:
            train_cell(Path(folder), (sweep / stop).exists, modules)
        except Interrupted:
            return "stopped", ""
        except snn_rl.SnnRlError as error:
            return "failed", " ".join(str(error).split())
        return "done", ""

    return train
