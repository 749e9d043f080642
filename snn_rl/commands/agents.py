"""Evaluate, play, report, zoo, energy: what people do with agents."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from snn_rl.commands.imports import ImportOption, import_typed
from snn_rl.commands.output import INTERRUPTED, FigureOption, say, show, show_energy, show_json
from snn_rl.errors import SnnRlError

if TYPE_CHECKING:
    from snn_rl.agents.agent import Agent

AgentOption = Annotated[
    str | None,
    typer.Option("--agent", help="Agent or run folder, zoo:ENV/STAGE or zoo:ENV [newest run]."),
]
OtherT = Annotated[int | None, typer.Option(min=1, help="Run spiking agents at another T.")]
NoCarry = Annotated[bool, typer.Option("--no-carry", help="Zero the membranes at every frame.")]
Engine = Annotated[
    str, typer.Option(help="auto, event (spiking agents, event-driven) or torch: the same bits.")
]
Sticky = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Probability of a repeated action [as the id has it]."),
]
Flicker = Annotated[float, typer.Option(min=0.0, max=1.0, help="Probability of a blank frame.")]


def evaluate(
    agent: Annotated[
        str | None,
        typer.Option(help="Agent, run or sweep folder, zoo:ENV/STAGE or zoo:ENV [newest run]."),
    ] = None,
    trials: Annotated[
        str, typer.Option(help="Full games per stage; all: one from each start of Pong.")
    ] = "20",
    timesteps: OtherT = None,
    no_carry: NoCarry = False,
    sticky: Sticky = None,
    flicker: Flicker = 0.0,
    maxpool: Annotated[
        bool | None,
        typer.Option(help="Atari frames show the maximum of two raw ones [as trained]."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses other evaluation seeds.")] = 0,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Cut games off after so many [as the game has it].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
    engine: Engine = "auto",
    record: Annotated[
        bool, typer.Option("--record", help="Store the scores in the agents' cards.")
    ] = False,
    import_: ImportOption = None,
) -> None:
    """Play full greedy games on seeds that training never saw; every stage of a run."""
    from snn_rl.agents.conditions import trained_in
    from snn_rl.agents.evaluation import evaluate_agent
    from snn_rl.agents.results import record_scores, save_evaluation

    plain = timesteps is None and not no_carry and (flicker, sticky, seed) == (0, None, 0)
    plain = plain and maxpool is None and max_frames is None
    if record and not plain:
        raise SnnRlError("--record keeps the standard scores: leave out the other options")
    games = _games(trials)
    if games == "all" and seed:
        raise SnnRlError("--trials all plays every start there is: leave out --seed")
    import_typed(import_)
    found: list[tuple[Path | None, list[dict[str, Any]]]] = []
    try:
        for run, agents in _find_all(agent, engine):
            found.append((run, of_run := []))
            for name, loaded in agents.items():
                loaded = _as_asked(loaded, timesteps, no_carry)
                say(f"evaluating {name} (engine: {loaded.engine}) ...")
                pooled = loaded.maxpool if maxpool is None else maxpool
                world = replace(trained_in(loaded), flicker=flicker, sticky=sticky, maxpool=pooled)
                row = evaluate_agent(
                    loaded, name, trials=games, seed=seed, conditions=world, max_frames=max_frames
                )
                of_run.append(row)
    finally:  # what was played is shown, whatever comes between
        rows = [row for _, of_run in found for row in of_run]
        if rows and as_json:
            show_json(rows)
        elif rows:
            _show_scores(agent, rows)
        sys.stdout.flush()
    for run, of_run in found:  # only now: no score is lost where this cannot be written
        if run is not None and plain:
            save_evaluation(run, of_run)
    if record:
        record_scores(rows)


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
    import_: ImportOption = None,
    engine: Engine = "auto",
) -> None:
    """Watch an agent play and its neurons spike, in a window or as a video."""
    from snn_rl.agents.conditions import trained_in
    from snn_rl.agents.seeds import evaluation_seeds
    from snn_rl.agents.show.drawing import SIZE, draw
    from snn_rl.agents.show.game import Show
    from snn_rl.agents.show.outputs import open_screen
    from snn_rl.runs.monitor import StopFlag

    import_typed(import_)
    name, loaded = list(_find(agent, engine)[1].items())[-1]
    player = _as_asked(loaded, timesteps, no_carry)
    seeds = evaluation_seeds(0, seed + episodes)[seed:]
    world = replace(trained_in(player), flicker=flicker, sticky=sticky)
    with (
        closing(Show(player, world)) as game,
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
    run: Annotated[Path | None, typer.Argument(help="Run or sweep folder [newest run].")] = None,
) -> None:
    """Write report.md with the table and the figures of a run or of a sweep."""
    from snn_rl.agents.report.page import write_report
    from snn_rl.agents.report.sweep import write_sweep_report
    from snn_rl.agents.results import newest_run
    from snn_rl.agents.sweep.manifest import is_sweep

    folder = run or newest_run()
    if folder is None:
        raise SnnRlError("there is no run yet: start one with snn-rl train --env CartPole-v1")
    write = write_sweep_report if is_sweep(folder) else write_report
    sys.stdout.write(f"{write(folder)}\n")


def zoo() -> None:
    """List the trained agents that come with the package."""
    from snn_rl.agents.loading import zoo as names
    from snn_rl.agents.results import zoo_rows
    from snn_rl.commands.tables import zoo_table

    if not names():
        raise SnnRlError("this installation ships no agents")
    show(zoo_table(zoo_rows()))


def energy(
    agent: AgentOption = None,
    trials: Annotated[int, typer.Option(min=1, help="Games to measure spike rates on.")] = 5,
    figure: FigureOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
    import_: ImportOption = None,
) -> None:
    """Operations, memory traffic and energy per frame, at the spike rates of real play."""
    from snn_rl.agents.energy import measure_energies, measure_work
    from snn_rl.energy.views import work_table

    import_typed(import_)
    _, agents = _find(agent)
    reports = measure_energies(agents, trials)
    work = measure_work(agents, reports)
    if as_json:
        rows = {name: [row.to_dict() for row in found] for name, found in work.items()}
        shape = rows.pop("ANN")
        show_json(
            [
                {"agent": name} | found.to_dict() | {"engines": rows.get(name, shape)}
                for name, found in reports.items()
            ]
        )
    show_energy(reports, "frame", figure, tables=not as_json)
    if not as_json:
        show(work_table(work, "frame", next(iter(reports.values())).costs))


def _games(text: str) -> int | Literal["all"]:
    """Number of games of a --trials text."""
    if text == "all":
        return "all"
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise SnnRlError(f"--trials {text!r} must be a whole number from 1, or all")
    return int(text)


def _find_all(source: str | None, engine: str) -> Iterator[tuple[Path | None, dict[str, Agent]]]:
    """As `_find`; of a sweep all finished runs, one after the other."""
    from snn_rl.agents.sweep.manifest import is_sweep, read_sweep

    if source is None or not is_sweep(Path(source)):
        yield _find(source, engine)
        return
    sweep = read_sweep(Path(source))
    finished = [cell for cell in sweep.cells if sweep.finished(cell)]
    if not finished:
        raise SnnRlError(f"{source} holds no finished run yet: snn-rl sweep --resume goes on")
    if left_out := len(sweep.cells) - len(finished):
        say(f"{left_out} of {len(sweep.cells)} runs are not finished and left out")
    for cell in finished:
        yield _find(str(sweep.path(cell)), engine)


def _show_scores(source: str | None, rows: list[dict[str, Any]]) -> None:
    """A table of the stages; of a sweep, what its runs say together."""
    from snn_rl.agents.report.sweep import grouped, summary
    from snn_rl.agents.sweep.manifest import is_sweep, read_sweep
    from snn_rl.commands.tables import evaluation_table, text_table

    if source is None or not is_sweep(Path(source)):
        show(evaluation_table(rows))
        return
    sweep = read_sweep(Path(source))
    title = f"{sweep.env}, {rows[0]['trials']} trials a run; 95 % bootstrap intervals over runs"
    show(text_table([summary(group) for group in grouped(sweep, rows)], title))


def _find(source: str | None, engine: str = "auto") -> tuple[Path | None, dict[str, Agent]]:
    """Run folder (if it is one) and agents by name; without a source the newest run, or the zoo."""
    from snn_rl.agents.loading import checked, load_agent
    from snn_rl.agents.results import named, newest_run, stages

    wanted = checked(engine)
    if source is None:
        run = newest_run()
        source = str(run) if run else "zoo:CartPole-v1/T1"
    if not source.startswith("zoo:"):
        folders = stages(Path(source))
        if folders:
            return Path(source), {str(folder): load_agent(folder, wanted) for folder in folders}
    return None, {name: load_agent(name, wanted) for name in named(source)}


def _as_asked(agent: Agent, timesteps: int | None, no_carry: bool) -> Agent:
    """A spiking agent at another T or without carrying; an ANN knows neither."""
    if not agent.actor.spiking:
        return agent
    return agent.with_options(timesteps=timesteps, carry_membrane=False if no_carry else None)
