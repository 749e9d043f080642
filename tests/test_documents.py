"""What the documents show can be run: Python as it stands, commands as far as their options."""

from __future__ import annotations

import os
import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer

import snn_rl
from snn_rl.cli import app
from snn_rl.envs.vector import make_vector

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Words after `snn-rl` of every such line, continued lines joined."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "snn-rl" in words[:2]:
                found.append(words[words.index("snn-rl") + 1 :])
    return found


def test_the_readme_s_python_runs() -> None:
    vector = make_vector("CartPole-v1", 1, seed=0)
    shown = {"obs": vector.reset()[0][0]}
    vector.close()
    (code,) = blocks(ROOT / "README.md", "python")
    exec(code, shown)
    assert shown["action"] in (0, 1)
    assert isinstance(shown["agent"], snn_rl.Agent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_shown(page: Path) -> None:
    for words in commands(page):
        group, arguments = typer.main.get_command(app), [w for w in words if not set(w) & set("<>")]
        context = group.make_context("snn-rl", list(arguments), resilient_parsing=False)
        while hasattr(context.command, "commands"):
            rest = [*context._protected_args, *context.args]
            name, command, rest = context.command.resolve_command(context, rest)  # type: ignore[attr-defined]
            context = command.make_context(name, rest, parent=context)
        assert not context.args, words


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_benchmarks_find_what_they_import(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if script.stem == "spikingjelly_vgg16":
        pytest.importorskip("spikingjelly")
    monkeypatch.syspath_prepend(str(script.parent))
    runpy.run_path(str(script), run_name="imported")


def test_the_pages_import_what_there_is() -> None:
    code = [
        c for page in PAGES for kind in ("python", r"{code-cell}[^\n]*") for c in blocks(page, kind)
    ]
    lines = [
        line for c in code for line in re.findall(r"^(?:from|import) snn_rl.*", c, re.MULTILINE)
    ]
    assert len(lines) > 10
    for line in lines:
        exec(line, {})


def test_the_pages_name_benchmarks_that_there_are() -> None:
    pages = [*PAGES, ROOT / "benchmarks" / "README.md"]
    named = {name for page in pages for name in re.findall(r"benchmarks/\w+\.py", page.read_text())}
    assert len(named) > 5
    assert not {name for name in named if not (ROOT / name).is_file()}


def test_the_pages_show_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        built = target.startswith(("reference/", "../reference/")) or target.endswith(".html")
        assert built or os.path.exists(page.parent / target), target
