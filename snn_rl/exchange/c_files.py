"""Spiking agents as C99: two files that need nothing but a compiler, and a trace to test them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from snn_rl.core.grid import snap
from snn_rl.core.network import Network
from snn_rl.errors import EngineError, SnnRlError
from snn_rl.exchange.c_tables import Recipe, sources
from snn_rl.exchange.golden import Trace
from snn_rl.inference.lowering import lower
from snn_rl.inference.plan import Plan

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O2", "-ffp-contract=off")
SELF_TEST = "-DSNN_SELF_TEST"


def headers(path: Path) -> list[Path]:
    """What `write_c` writes beside `path`."""
    return [path.with_suffix(".h"), path.with_name(f"{path.stem}_trace.h")]


def is_export(file: Path) -> bool:
    """Whether a header, by its first line, was written by an export; other files may be."""
    with file.open("rb") as opened:
        return file.suffix != ".h" or b"snn-rl" in opened.readline(200)


def write_c(recipe: Recipe, trace: Trace, path: Path) -> tuple[Path, ...]:
    """Write agent.c as `path`, agent.h and agent_trace.h beside it; returns the three.

    Raises:
        SnnRlError: the file's name does not fit C.
    """
    texts = sources(recipe, trace, path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="ascii")
        for name in texts:
            (folder / name).replace(path.with_name(name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tuple(path.with_name(name) for name in texts)


def compiler() -> list[str]:
    """The command of a C compiler: $CC, else the first that is installed.

    Raises:
        SnnRlError: there is none.
    """
    named = os.environ.get("CC", "")
    try:
        wanted = shlex.split(named)
    except ValueError:
        raise SnnRlError(f"CC is no command ({named!r} ends within quotes): correct it") from None
    for command in [wanted] if wanted else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    raise SnnRlError(
        f"there is no C compiler {wanted[0]!r}, which CC names: correct it"
        if wanted
        else "there is no C compiler: install gcc or clang, or set CC"
    )


def self_test(path: Path, command: list[str], flags: tuple[str, ...] = FLAGS) -> tuple[bool, str]:
    """Compile the exported `path` with its self-test and run that: whether it passed, and its word.

    Raises:
        SnnRlError: it does not compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "self_test"
        line = [*command, *flags, SELF_TEST, str(path), "-o", str(program)]
        built = subprocess.run(line, capture_output=True, text=True)
        if built.returncode != 0:
            said = next((text for text in built.stderr.splitlines() if "error" in text), "it fails")
            raise SnnRlError(f"{command[0]} does not compile {path}: {said}")
        ran = subprocess.run([str(program)], capture_output=True, text=True)
    passed = ran.returncode == 0
    return passed, ran.stdout.strip() or f"self-test ended with status {ran.returncode}"


def lowered(network: Network, timesteps: int) -> Plan:
    """The engine's plan of a network that torch runs.

    Raises:
        SnnRlError: the layer that C cannot run bit for bit, or weights that lie on no grid.
    """
    copy = network.clone().cpu()
    before = {name: value.clone() for name, value in copy.state_dict().items()}
    grid = snap(copy, timesteps)
    state = copy.state_dict()
    if not all(torch.equal(value, before[name]) for name, value in state.items()):
        raise SnnRlError(
            "there is no export to C: the weights lie on no grid at these timesteps; save the "
            "agent and export what is saved"
        )
    weights = {name.removeprefix("layers."): value.numpy() for name, value in state.items()}
    try:
        return lower({"graph": [node.to_dict() for node in copy.nodes], "grid": grid}, weights)
    except EngineError as error:
        raise SnnRlError(f"there is no export to C: {error}") from None
