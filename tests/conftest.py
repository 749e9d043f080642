"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from atari_games import ENTRY
from commands import SMALL, snn_rl_command


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
