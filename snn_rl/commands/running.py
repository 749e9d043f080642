"""What the commands that train share: the command that is recorded, and how a run ends."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from snn_rl.commands.output import INTERRUPTED, say
from snn_rl.errors import SnnRlError

FOLDERS = ("--run-dir", "--out")
"""Options that say where runs go."""


def refuse_options(*options: object, but: str = "--run-dir") -> None:
    """Raise SnnRlError if --resume came with any of `options`; `but` names those it takes."""
    if any(options):
        raise SnnRlError(f"--resume takes no options but {but}: the run keeps its settings")


def reproducing(arguments: list[str]) -> str:
    """The command that repeats runs anywhere: the one given, without its --run-dir or --out."""
    kept, skip = ["snn-rl"], False
    for argument in arguments:
        option = argument.partition("=")[0]
        if not skip and option not in FOLDERS:
            kept.append(argument)
        skip = argument in FOLDERS and not skip
    return shlex.join(kept)


@contextmanager
def told_how_to_go_on(folder: Path, command: str, options: str = "") -> Iterator[None]:
    """Say how a run that is stopped or fails is gone on with.

    Args:
        command: that trains, e.g. "snn-rl train".
        options: to be given again.
    """
    from snn_rl.envs import UnsupportedEnvironment
    from snn_rl.runs.folder import Interrupted, can_resume

    resuming = f"{command} --resume --run-dir {shlex.quote(str(folder))}{options}"
    try:
        yield
    except Interrupted as interrupted:
        say(f"stopped in stage {interrupted}; what was reached is saved in {folder}")
        say(f"go on with: {resuming}")
        raise typer.Exit(INTERRUPTED) from None
    except UnsupportedEnvironment:  # the same command would fail again
        raise
    except Exception:
        if can_resume(folder):
            say(f"training failed; once the cause is removed, go on with: {resuming}")
        raise
