"""Modules that register environments: imported where the user typed them, and nowhere else."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

ImportOption = Annotated[
    list[str] | None,
    typer.Option("--import", help="Module that registers environments; may be repeated."),
]


def import_typed(modules: Sequence[str] | None, env_id: str | None = None) -> list[str]:
    """Import the modules of --import, and that of an environment typed as `module:id`.

    They are looked for in the current folder, too, after everything that is installed.

    Returns:
        The modules, each once.

    Raises:
        UnsupportedEnvironment: one cannot be imported.
    """
    from snn_rl.envs import import_environments, split_id

    typed = [*(modules or []), split_id(env_id or "")[0]]
    found = [module for module in dict.fromkeys(typed) if module]
    if found and not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    for module in found:
        import_environments(module)
    return found


def import_options(modules: Sequence[str]) -> str:
    """The options that import these modules again, each with a space in front."""
    return "".join(f" --import {shlex.quote(module)}" for module in modules)
