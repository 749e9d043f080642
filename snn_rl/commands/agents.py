"""Train, evaluate, play, report, zoo, energy: what people do with agents."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_rl.commands.output import INTERRUPTED, say, screen, show, show_json
from snn_rl.errors import SnnRlError

if TYPE_CHECKING:
    from snn_rl.agents.agent import Agent
    from snn_rl.agents.config import TrainConfig

AgentOption = Annotated[
    str | None, typer.Option("--agent", help="Agent or run folder, or zoo:ENV/STAGE [newest run].")
]
OtherT = Annotated[int | None, typer.Option(min=1, help="Run spiking agents at another T.")]
NoCarry = Annotated[bool, typer.Option("--no-carry", help="Zero the membranes at every frame.")]
Sticky = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Probability of a repeated action [as the id has it]."),
]
Flicker = Annotated[float, typer.Option(min=0.0, max=1.0, help="Probability of a blank frame.")]


def train(
    env: Annotated[str | None, typer.Option(help="Gymnasium id, e.g. CartPole-v1.")] = None,
    timesteps: Annotated[
        int | None,
        typer.Option(help="T, spiking timesteps per frame, of the first stage; 0: ANN only [5]."),
    ] = None,
    until: Annotated[int | None, typer.Option(help="T of the last stage [1].")] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Environment steps of each stage at most (not spiking timesteps)."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file that replaces the environment's preset.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. ann.learning_rate=5e-4.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="All randomness follows from it [0].")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Who labels frames: self, full_state, stack:N, or an agent."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Agent whose weights the run starts from, without replay."),
    ] = None,
    no_carry: NoCarry = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run-dir [newest run].")
    ] = False,
    run_dir: Annotated[Path | None, typer.Option(help="Run folder [runs/ENV/TIME].")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda [auto].")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch [1].")] = None,
) -> None:
    """Train an ANN, convert it to spikes, and reduce its timesteps stage by stage."""
    from snn_rl.agents.config import load_preset, make_config, merge, parse_overrides, read_config
    from snn_rl.agents.results import run_folder, run_to_resume

    given: dict[str, Any] = {
        "env": env,
        "timesteps": timesteps,
        "until": until,
        "seed": seed,
        "teacher": teacher,
        "start": start,
        "device": device,
        "threads": threads,
        "carry_membrane": False if no_carry else None,
    }
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if steps is not None:
        options |= {stage: {"steps": steps} for stage in ("privileged", "ann", "spiking")}
    if resume:
        if options or config or set_:
            raise SnnRlError("--resume takes no options but --run-dir: the run keeps its settings")
        folder, settings, command = run_to_resume(run_dir)
    else:
        base = read_config(config) if config else load_preset(env or "")
        settings = make_config(merge(merge(base, options), parse_overrides(set_ or [])))
        folder, command = run_folder(run_dir, settings.env), _reproducing(sys.argv[1:])
    _train(settings, folder, command)


def _train(settings: TrainConfig, folder: Path, command: str) -> None:
    """Train and show progress; signals end it cleanly."""
    from snn_rl.agents.monitors import FileMonitor, MonitorGroup, StopFlag
    from snn_rl.agents.run import Interrupted, Run
    from snn_rl.console import ConsoleMonitor

    stop = StopFlag()
    files = FileMonitor(folder, stop)
    try:
        with stop.on_signals(), ConsoleMonitor(screen) as bars:
            run = Run(settings, folder, MonitorGroup([files, bars]), command=command)
            say(f"training {settings.env} into {folder}")
            run.train()
    except Interrupted as interrupted:
        say(f"stopped in stage {interrupted}; what was reached is saved in {folder}")
        say(f"go on with: {_resuming(folder)}")
        raise typer.Exit(INTERRUPTED) from None
    except Exception:
        if (folder / "resume" / "state.safetensors").exists():
            say(f"training failed; once the cause is removed, go on with: {_resuming(folder)}")
        raise
    finally:
        files.close()
    say(f"done: snn-rl evaluate --agent {shlex.quote(str(folder))}")


def evaluate(
    agent: AgentOption = None,
    trials: Annotated[int, typer.Option(min=1, help="Full games per stage.")] = 20,
    timesteps: OtherT = None,
    no_carry: NoCarry = False,
    sticky: Sticky = None,
    flicker: Flicker = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Chooses other evaluation seeds.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Store the scores in the agents' cards.")
    ] = False,
) -> None:
    """Play full greedy games on seeds that training never saw; every stage of a run."""
    from snn_rl.agents.evaluation import Conditions, evaluate_agent
    from snn_rl.agents.results import record_scores, save_evaluation
    from snn_rl.console import evaluation_table

    plain = timesteps is None and not no_carry and (flicker, sticky, seed) == (0, None, 0)
    if record and not plain:
        raise SnnRlError("--record keeps the standard scores: leave out the other options")
    world = Conditions(flicker=flicker, sticky=sticky)
    run, agents = _find(agent)
    rows = []
    for name, loaded in agents.items():
        say(f"evaluating {name} ...")
        loaded = _as_asked(loaded, timesteps, no_carry)
        rows.append(evaluate_agent(loaded, name, trials=trials, seed=seed, conditions=world))
    if run is not None and plain:
        save_evaluation(run, rows)
    if record:
        record_scores(rows)
    if as_json:
        show_json(rows)
    else:
        show(evaluation_table(rows))


def play(
    agent: AgentOption = None,
    video: Annotated[
        Path | None, typer.Option(help="MP4 or GIF to write instead of opening a window.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="First game: the trial of snn-rl evaluate, from 0.")
    ] = 0,
    episodes: Annotated[int, typer.Option(min=1, help="Games, one after the other.")] = 1,
    fps: Annotated[
        float | None, typer.Option(min=1, max=240, help="Frames per second [the game's own].")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    scale: Annotated[
        float | None, typer.Option(min=0.25, max=4, help="Size; 1 is 960x540 [1; a GIF 0.5].")
    ] = None,
    timesteps: OtherT = None,
    no_carry: NoCarry = False,
    sticky: Sticky = None,
    flicker: Flicker = 0.0,
) -> None:
    """Watch an agent play and its neurons spike, in a window or as a video."""
    from snn_rl.agents.drawing import SIZE, draw
    from snn_rl.agents.evaluation import Conditions, evaluation_seeds
    from snn_rl.agents.monitors import StopFlag
    from snn_rl.agents.play import Show
    from snn_rl.agents.screens import open_screen

    name, loaded = list(_find(agent)[1].items())[-1]
    player = _as_asked(loaded, timesteps, no_carry)
    seeds = evaluation_seeds(0, seed + episodes)[seed:]
    with (
        closing(Show(player, Conditions(flicker=flicker, sticky=sticky))) as game,
        StopFlag().on_signals() as stop,
        open_screen(video, SIZE, fps or game.pace, scale=scale, title=f"snn-rl: {name}") as view,
    ):
        say(f"playing {name} ...")
        for moment in islice(game.play(seeds), max_frames):
            if moment.over:
                say(f"score {moment.score:g} after {moment.frame} frames")
            if not view.show(draw(moment)) or stop.raised:
                break
    if video is not None:
        sys.stdout.write(f"{video}\n")
    if stop.raised:
        raise typer.Exit(INTERRUPTED)


def report(
    run: Annotated[Path | None, typer.Argument(help="Run folder [newest run].")] = None,
) -> None:
    """Write report.md with the table and the figures of a run."""
    from snn_rl.agents.report import write_report
    from snn_rl.agents.results import newest_run

    folder = run or newest_run(Path("runs"))
    if folder is None:
        raise SnnRlError("there is no run yet: start one with snn-rl train --env CartPole-v1")
    sys.stdout.write(f"{write_report(folder)}\n")


def zoo() -> None:
    """List the trained agents that come with the package."""
    from snn_rl.agents.agent import zoo as names
    from snn_rl.agents.results import zoo_rows
    from snn_rl.console import zoo_table

    if not names():
        raise SnnRlError("this installation ships no agents")
    show(zoo_table(zoo_rows()))


def energy(
    agent: AgentOption = None,
    trials: Annotated[int, typer.Option(min=1, help="Games to measure spike rates on.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
) -> None:
    """Operations and energy per frame, layer by layer, at the spike rates of real play."""
    from snn_rl.agents.results import measure_energy
    from snn_rl.console import energy_tables

    _, agents = _find(agent)
    reports = {name: measure_energy(loaded, trials) for name, loaded in agents.items()}
    if as_json:
        rows = [{"agent": name} | found.to_dict() for name, found in reports.items()]
        show_json(rows)
        return
    for name, found in reports.items():
        show(*energy_tables(name, found))


def _find(source: str | None) -> tuple[Path | None, dict[str, Agent]]:
    """Run folder (if it is one) and agents by name; without a source the newest run, or the zoo."""
    from snn_rl.agents.agent import load_agent
    from snn_rl.agents.results import newest_run, stages

    if source is None:
        run = newest_run(Path("runs"))
        source = str(run) if run else "zoo:CartPole-v1/T1"
    if not source.startswith("zoo:"):
        folders = stages(Path(source))
        if folders:
            return Path(source), {str(folder): load_agent(folder) for folder in folders}
    return None, {source: load_agent(source)}


def _as_asked(agent: Agent, timesteps: int | None, no_carry: bool) -> Agent:
    """A spiking agent at another T or without carrying; an ANN knows neither."""
    if not agent.policy.network.spiking:
        return agent
    return agent.with_options(timesteps=timesteps, carry_membrane=False if no_carry else None)


def _resuming(folder: Path) -> str:
    return f"snn-rl train --resume --run-dir {shlex.quote(str(folder))}"


def _reproducing(arguments: list[str]) -> str:
    """The command that repeats a run anywhere: the one given, without its --run-dir."""
    kept, skip = ["snn-rl"], False
    for argument in arguments:
        if not skip and not argument.startswith("--run-dir"):
            kept.append(argument)
        skip = argument == "--run-dir"
    return shlex.join(kept)
