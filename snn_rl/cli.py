"""The command line: assembles the commands, turns errors into one sentence and an exit status."""

from __future__ import annotations

import io
import logging
import sys
import threading
from typing import Any

import typer
from rich.logging import RichHandler

from snn_rl import __version__
from snn_rl.commands import agents, benchmark, exchange, sweep, training, vision
from snn_rl.commands.output import BAD_INPUT, FAILURE, INTERRUPTED, say, terminal

BAD_PATH = (PermissionError, FileExistsError, FileNotFoundError, NotADirectoryError)

app = typer.Typer(
    name="snn-rl",
    help="Train DQN agents, convert them to spiking networks and prune them to one timestep.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    training.train,
    sweep.sweep,
    agents.evaluate,
    agents.play,
    agents.report,
    agents.zoo,
    agents.energy,
):
    app.command()(command)
app.command("import")(exchange.import_)
app.command()(exchange.export)
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(vision.app, name="vision")


def main() -> None:
    """Entry point: errors become one sentence on stderr and a meaningful exit status."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if debug:
        sys.argv.remove("--debug")
    if arguments == ["--version"]:
        sys.stdout.write(f"snn-rl {__version__}\n")
        return
    for stream in (sys.stdout, sys.stderr):  # a result that cannot be spelt is still a result
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not debug:  # what fails in a writer's thread fails in the main one, too
        threading.excepthook = lambda _: None
    handler = RichHandler(console=terminal, show_time=False, show_path=False, show_level=False)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")
    logging.getLogger("snn_rl.agents.evaluation").setLevel(logging.INFO)  # how far games are
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it does without its cache
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        show: Any = getattr(error, "show", None)
        if show is not None:
            show()
        else:
            say(f"error: {error}")
        sys.exit(BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        bad_input = isinstance(error, (ValueError, *BAD_PATH))
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        say(f"error: {text}", style="red")
        if not bad_input:
            say("(--debug shows where it happened)")
        sys.exit(BAD_INPUT if bad_input else FAILURE)


if __name__ == "__main__":
    main()
