"""`snn-rl benchmark ...`: speed, measured on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from snn_rl.commands.imports import import_typed
from snn_rl.commands.output import show, show_json

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@app.command()
def step(
    repeats: Annotated[int, typer.Option(min=1, help="Timed updates of each network.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
) -> None:
    """Training step of the spiking network against the ANN's on the same frames."""
    from snn_rl.agents.bench.step import training_step_ratios
    from snn_rl.commands.tables import step_table

    rows = training_step_ratios(repeats)
    if as_json:
        show_json(rows)
    else:
        show(step_table(rows))


@app.command()
def train(
    env: Annotated[str, typer.Option(help="Gymnasium id.")] = "PongNoFrameskip-v4",
    stack: Annotated[
        int | None,
        typer.Option(min=1, help="Frames that the Q-learning networks see [as in the preset]."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Length of a turn, at least.")] = 5.0,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. privileged.batch=64.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
) -> None:
    """Steps per second in training, against Stable-Baselines3's DQN at equal updates."""
    from snn_rl.agents.bench.throughput import training_throughput
    from snn_rl.agents.config import make_config
    from snn_rl.agents.presets import with_preset
    from snn_rl.commands.tables import throughput_table
    from snn_rl.support.settings import override

    options = override({"env": env, "device": device}, set_ or [])
    import_typed(None, str(options["env"]))
    config = make_config(override(with_preset(options), set_ or []))
    rows = training_throughput(config, stack=stack, seconds=seconds, repeats=repeats)
    if as_json:
        show_json(rows)
    else:
        show(throughput_table(rows))


@app.command()
def act(
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", help="Spiking agent; may be repeated [Pong's T1, T3 and T5]."),
    ] = None,
    rival: Annotated[
        list[str] | None,
        typer.Option("--rival", help="ANN for the runtimes; may be repeated [Pong's]."),
    ] = None,
    frames: Annotated[int, typer.Option(min=60, help="Decisions of each contender.")] = 1000,
    compiled: Annotated[
        bool, typer.Option("--compile", help="ANNs by torch.compile, too: takes a minute.")
    ] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="Int8 models play all starts: takes minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Time of one decision on one thread: both engines, and ANNs in the runtimes installed."""
    from snn_rl.agents.bench.act import act_times
    from snn_rl.commands.tables import act_table

    pong = "zoo:PongNoFrameskip-v4"
    sources = agent or [f"{pong}/{stage}" for stage in ("T1", "T3", "T5")]
    rivals = rival or ([] if agent else [f"{pong}/paper-ann", f"{pong}/teacher2"])
    found = act_times(sources, rivals, frames, compiled, scores)
    if as_json:
        show_json(found)
    else:
        show(act_table(found))


@app.command()
def lif(
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 20,
    timesteps: Annotated[
        list[int] | None, typer.Option("--timesteps", min=1, help="Steps [1, 2, 5 and 10].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
) -> None:
    """LIF neurons forward and backward, beside SpikingJelly, snnTorch and Norse where installed."""
    import torch

    from snn_rl.agents.bench.lif import TIMESTEPS, lif_times
    from snn_rl.commands.tables import lif_table

    torch.set_num_threads(1)
    rows = lif_times(repeats, timesteps or TIMESTEPS)
    if as_json:
        show_json(rows)
    else:
        show(lif_table(rows))
