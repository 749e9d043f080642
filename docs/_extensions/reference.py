"""Reference pages from the code: every command with its options, every module of every room.

They are written to docs/reference/ before Sphinx reads its sources, and are not kept in git.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOMS = {
    "snn_rl.core": "What a spiking network is",
    "snn_rl.conversion": "From an ANN, and smaller",
    "snn_rl.inference": "Event-driven execution",
    "snn_rl.exchange": "To and from other formats",
    "snn_rl.energy": "Operations and energy",
    "snn_rl.runs": "Run folders, checkpoints, resume",
    "snn_rl.vision": "Image classification",
    "snn_rl.agents": "Agents, training, evaluation",
    "snn_rl.agents.dqn": "Deep Q-learning",
    "snn_rl.agents.exchange": "Agents from and for elsewhere",
    "snn_rl.agents.show": "Agents at play",
    "snn_rl.agents.report": "Reports",
    "snn_rl.agents.bench": "Benchmarks",
    "snn_rl.agents.sweep": "Sweeps",
    "snn_rl.envs": "Environments",
    "snn_rl.support": "Helpers",
    "snn_rl.errors": "Errors",
}


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _write)
    app.connect("autodoc-process-docstring", _plain_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    _keep(folder / "cli.md", _command_line())
    rooms = {name: title for name, title in ROOMS.items() if importlib.util.find_spec(name)}
    _keep(folder / "api.md", _overview(rooms))
    for name, title in rooms.items():
        _keep(folder / f"{name}.md", _room(name, title))


def _keep(file: Path, text: str) -> None:
    """Write only what changed, so that Sphinx reads nothing twice."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def _command_line() -> str:
    import typer

    from snn_rl.cli import app

    lines = ["# Command line", "", "`--debug` before anything else shows where an error happened."]
    lines += ["Exit status: 0 done, 2 bad usage or input, 1 failure, 130 interrupted.", ""]
    lines += _command(typer.main.get_command(app), "snn-rl", 1)
    return "\n".join(lines) + "\n"


def _command(command: Any, name: str, depth: int) -> list[str]:
    lines = [] if depth == 1 else [f"{'#' * min(depth, 3)} {name}", ""]
    lines += [" ".join((command.help or "").split()), ""]
    parameters = [p for p in command.params if p.name != "help"]
    if parameters:
        lines += ["| option | |", "|---|---|"]
        for parameter in parameters:
            names = ", ".join(f"`{option}`" for option in parameter.opts)
            lines.append(f"| {names} | {_cell(parameter.help or '')} |")
        lines.append("")
    for child in getattr(command, "commands", {}).values():
        lines += _command(child, f"{name} {child.name}", depth + 1)
    return lines


def _overview(rooms: dict[str, str]) -> str:
    import snn_rl

    lines = ["# Python API", "", "What `import snn_rl` offers:", "", "| name | |", "|---|---|"]
    for name in snn_rl.__all__:
        thing = getattr(snn_rl, name)
        home = f"{thing.__module__}.{thing.__qualname__}"
        lines.append(f"| {{py:obj}}`snn_rl.{name} <{home}>` | {_first_line(thing)} |")
    lines += ["", "Everything else, by room:", "", "```{toctree}", ":maxdepth: 1", ""]
    lines += [f"{title}: {name} <{name}>" for name, title in rooms.items()]
    return "\n".join([*lines, "```", ""])


def _room(name: str, title: str) -> str:
    package = importlib.import_module(name)
    lines = [f"# {title}: `{name}`", "", _first_line(package), ""]
    for module in _modules(package):
        # Documenting a class adds to pydantic's annotations: no model may be made after that.
        importlib.import_module(module)
        lines += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}"]
        lines += ["   :members:", "```", ""]
    return "\n".join(lines)


def _modules(package: Any) -> list[str]:
    """Names of a package's modules, its sub-packages left out; a module's own name."""
    if not hasattr(package, "__path__"):
        return [package.__name__]
    found = pkgutil.iter_modules(package.__path__)
    return sorted(f"{package.__name__}.{info.name}" for info in found if not info.ispkg)


def _first_line(thing: Any) -> str:
    return _cell(" ".join((thing.__doc__ or "").split("\n\n")[0].split()))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _plain_text(
    app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Docstrings are plain text: |x| and leak ** T are no markup."""
    for index, line in enumerate(lines):
        lines[index] = _outside_code(line)


def _outside_code(line: str) -> str:
    text = line.lstrip()
    bullet = line[: len(line) - len(text) + 2] if text.startswith("* ") else ""
    parts = line.removeprefix(bullet).split("`")
    parts[::2] = [p.replace("|", "\\|").replace("*", "\\*") for p in parts[::2]]
    return bullet + "`".join(parts)
