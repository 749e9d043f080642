"""`snn-rl import` and `snn-rl export`: agents from elsewhere, and for elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn_rl.commands.imports import ImportOption, import_options, import_typed
from snn_rl.commands.output import say, show_json
from snn_rl.errors import SnnRlError

if TYPE_CHECKING:
    from snn_rl.agents.agent import Agent


def import_(
    file: Annotated[Path, typer.Argument(help="Stable-Baselines3's zip, or a state_dict.")],
    env: Annotated[str, typer.Option(help="Gymnasium id that the agent plays.")],
    out: Annotated[Path, typer.Option(help="Folder to write the agent to.")],
    network: Annotated[
        str | None,
        typer.Option(help="module:factory that builds the network of a state_dict [FILE: a zip]."),
    ] = None,
    stack: Annotated[
        int | None, typer.Option(min=1, help="Frames that the network sees at once [1; zip: read].")
    ] = None,
    maxpool: Annotated[
        bool | None,
        typer.Option(help="Its Atari frames showed the maximum of two raw ones [no; zip: yes]."),
    ] = None,
    fire_reset: Annotated[
        bool | None,
        typer.Option(help="FIRE opened its Atari lives [no; zip: where a game knows it]."),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Factor of each feature, as it was trained: 1,0.5,...")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="VecNormalize's mean of each feature: 0.1,0.2,...")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="VecNormalize's standard deviation of each feature.")
    ] = None,
    import_: ImportOption = None,
) -> None:
    """Turn a Q-network that was trained elsewhere into an agent of stage ann."""
    from snn_rl.agents.exchange.sb3 import from_sb3
    from snn_rl.agents.exchange.torch_modules import from_weights

    if out.is_dir() and any(out.iterdir()):
        raise SnnRlError(f"{out} is not empty: choose another --out")
    if os.path.lexists(out) and not out.is_dir():
        raise SnnRlError(f"{out} is no folder: choose another --out")
    modules = import_typed(import_, env)
    means, stds, factors = (
        _numbers(name, text) for name, text in (("mean", mean), ("std", std), ("scale", scale))
    )
    if network is None:
        if stack is not None or factors is not None:
            raise SnnRlError("--stack and --scale are for a state_dict: they need --network")
        shown = {"maxpool": maxpool, "fire_reset": fire_reset}
        agent = from_sb3(file, env, **shown, mean=means, std=stds)
    else:
        if means is not None or stds is not None:
            raise SnnRlError("--mean and --std are VecNormalize's: leave them out with --network")
        agent = from_weights(
            file,
            network,
            env,
            stack=stack or 1,
            maxpool=bool(maxpool),
            fire_reset=bool(fire_reset),
            scale=factors,
        )
    _write(agent, out, modules)


def export(
    agent: Annotated[str, typer.Option(help="Agent folder or zoo:ENV/STAGE.")],
    out: Annotated[Path, typer.Option(help="File to write: agent.onnx, agent.nir, agent.c.")],
    to: Annotated[str, typer.Option(help="onnx, nir or c.")] = "onnx",
    check: Annotated[
        bool, typer.Option("--check", help="Replay the golden trace in the target's own runtime.")
    ] = False,
    frames: Annotated[
        int, typer.Option(min=1, help="Frames of real play in the golden trace.")
    ] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    import_: ImportOption = None,
) -> None:
    """Write an agent for another runtime, with a golden trace of its play."""
    from snn_rl.agents.exchange.export import export as write
    from snn_rl.agents.loading import load_agent

    import_typed(import_)
    done = write(load_agent(agent), out, to, check=check, frames=frames)  # type: ignore[arg-type]
    for said in (*done.remarks, *done.verdicts):
        say(said)
    if as_json:
        files = [str(file) for file in done.files]
        show_json({"files": files, "verdicts": done.verdicts, "remarks": done.remarks})
    else:
        sys.stdout.write("".join(f"{file}\n" for file in done.files))


def _write(agent: Agent, out: Path, modules: list[str]) -> None:
    agent.save(out)
    imported = agent.card["imported"]
    say(f"imported from {imported['source']}; its weights are kept as they are")
    for difference in imported["differences"]:
        say(f"not as at home: {difference}")
    say(f"go on with: snn-rl train --env {agent.env_id} --from {out}{import_options(modules)}")
    sys.stdout.write(f"{out}\n")


def _numbers(name: str, text: str | None) -> list[float] | None:
    """The numbers of an option. Raises SnnRlError if they are not."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SnnRlError(f"--{name} {text!r} must be numbers with commas between") from None
