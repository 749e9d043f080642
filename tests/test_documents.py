"""What the documents show can be run: Python as it stands, commands as far as their options."""

from __future__ import annotations

import os
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import snn_rl
from snn_rl.cli import app
from snn_rl.envs.vector import make_vector

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks" / "README.md"
PAGES = [ROOT / "README.md", BENCHMARKS, *sorted((ROOT / "docs").rglob("*.md"))]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)


def lines(page: Path) -> list[list[str]]:
    """Words of every line of shell that a page shows, continued lines joined."""
    shown = [block for kind in ("sh", "bash") for block in blocks(page, kind)]
    joined = "".join(shown).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in joined]


def commands(page: Path) -> list[list[str]]:
    """Words after `snn-rl` of every such line."""
    return [w[w.index("snn-rl") + 1 :] for w in lines(page) if "snn-rl" in w[:2]]


def spans(page: Path) -> list[str]:
    """What a page sets as code within its sentences."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def test_the_readme_s_python_runs() -> None:
    vector = make_vector("CartPole-v1", 1, seed=0)
    shown = {"obs": vector.reset()[0][0]}
    vector.close()
    (code,) = blocks(ROOT / "README.md", "python")
    exec(code, shown)
    assert shown["action"] in (0, 1)
    assert isinstance(shown["agent"], snn_rl.Agent)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_have_the_options_shown(page: Path) -> None:
    for words in commands(page):
        group, arguments = typer.main.get_command(app), [w for w in words if not set(w) & set("<>")]
        context = group.make_context("snn-rl", list(arguments), resilient_parsing=False)
        while hasattr(context.command, "commands"):
            rest = [*context._protected_args, *context.args]
            name, command, rest = context.command.resolve_command(context, rest)  # type: ignore[attr-defined]
            context = command.make_context(name, rest, parent=context)
        assert not context.args, words


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_within_sentences_exist(page: Path) -> None:
    for span in spans(page):
        if not span.startswith("snn-rl "):
            continue
        command: Any = typer.main.get_command(app)
        words = span.split()[1:]
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert command.name != "snn-rl" or words[0].startswith("-"), span
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, span


def test_benchmarks_take_the_options_shown() -> None:
    shared = (ROOT / "benchmarks" / "comparing.py").read_text(encoding="utf-8")
    seen = 0
    for page in PAGES:
        shown = [*lines(page), *(span.split() for span in spans(page))]
        for words in shown:
            if words[:1] != ["python"] or not words[1:2] or not words[1].startswith("benchmarks/"):
                continue
            script = (ROOT / words[1]).read_text(encoding="utf-8")
            known = script + shared if "comparing import" in script else script
            for option in [word for word in words if word.startswith("--")]:
                assert f'"{option}"' in known, " ".join(words)
                seen += 1
    assert seen > 20


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_tables_have_one_head_and_as_many_cells_in_each_row(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`|\$[^$\n]*\$|\\\|", "", text)
    for table in re.findall(r"(?:^ *\|.*\n)+", text, re.M):
        rows = table.splitlines()
        assert [bool(re.fullmatch(r"[ |:-]+", row)) for row in rows[:2]] == [False, True], rows[0]
        assert len({row.count("|") for row in rows}) == 1, rows[0]
        assert not any(re.fullmatch(r" *\|[ |:-]*-[ |:-]*", row) for row in rows[2:]), rows[0]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_sentence_turns_into_a_list(page: Path) -> None:
    """Markdown takes a wrapped line that begins with "1. " for a list."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^.*\S.*\n *1\. .*", text, re.M)


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
    named = {name for page in PAGES for name in re.findall(r"benchmarks/\w+\.py", page.read_text())}
    assert len(named) > 5
    assert not {name for name in named if not (ROOT / name).is_file()}


def test_the_pages_show_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        built = target.startswith(("reference/", "../reference/")) or target.endswith(".html")
        assert built or os.path.exists(page.parent / target), target
