"""Ray nodes on this machine, each with processes of its own, started and ended one by one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MEMORY = 80_000_000
"""Bytes of a node's object store, about the smallest one that Ray takes."""
_SECONDS_TO_START, _SECONDS_TO_END = 60.0, 20.0


@dataclass(frozen=True)
class Node:
    """A node that is up.

    Attributes:
        address: of the cluster's head, for `snn-rl sweep --ray`.
        process: `ray start --block`, which ends the node's other processes when it is ended.
    """

    address: str
    process: subprocess.Popen[bytes]

    def raylet(self) -> int:
        """Process id of the node's raylet."""
        return next(
            pid for pid in _children(self.process.pid) if _command(pid)[0].endswith("/raylet")
        )

    def kill(self) -> None:
        """kill -9 of the raylet, which takes the node and all that works on it along."""
        os.kill(self.raylet(), signal.SIGKILL)
        self.process.wait(_SECONDS_TO_END)

    def end(self) -> None:
        """End the node in order, if it still is there."""
        self.process.terminate()
        try:
            self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def node(
    cores: int = 1,
    *,
    join: Node | None = None,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Node]:
    """A head on a free port, or a further node of the cluster that it `join`s.

    Raises:
        RuntimeError: it did not come up.
    """
    # Not in a test's own folder: sockets' paths are limited to about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        started = _start(cores, join, python, environment or os.environ, Path(folder))
        try:
            yield started
        finally:
            started.end()


def _start(
    cores: int, join: Node | None, python: str, environment: Mapping[str, str], folder: Path
) -> Node:
    address = join.address if join else f"127.0.0.1:{_free_port()}"
    port = address.rpartition(":")[2]
    role = ["--address", address]
    if join is None:
        role = ["--head", "--port", port, "--temp-dir", str(folder), "--include-dashboard=false"]
    options = ["--num-cpus", str(cores), "--object-store-memory", str(_MEMORY)]
    options += ["--block", "--disable-usage-stats"]
    command = [python, "-m", "ray.scripts.scripts", "start", *role, *options]
    log = folder / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
    end = time.monotonic() + _SECONDS_TO_START
    while b"Ray runtime started" not in (said := log.read_bytes()):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise RuntimeError(f"the Ray node did not start: {said.decode(errors='replace')}")
        time.sleep(0.1)
    return Node(address, process)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
