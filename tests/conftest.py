"""Fixtures that several test files share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from atari_games import ENTRY
from commands import SMALL, snn_rl_command

from snn_rl import cli


@pytest.fixture
def register() -> Iterator[Any]:
    added = []

    def add(name: str, **kwargs: Any) -> str:
        gym.register(name, entry_point=ENTRY, kwargs=kwargs)
        added.append(name)
        return name

    yield add
    for name in added:
        del gym.registry[name]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was trained."""
    folder = tmp_path_factory.mktemp("home")
    done = snn_rl_command(*SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """The same entry point without a new process, in an empty folder."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["snn-rl", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    monkeypatch.chdir(tmp_path)
    return run
