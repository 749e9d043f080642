"""What importing costs: start-up stays light, and every public name is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import snn_rl
from snn_rl.agents.agent import Agent

HEAVY = ("torch", "gymnasium", "ale_py", "stable_baselines3", "numpy", "matplotlib", "numba")


def loaded_modules(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    found = loaded_modules("import snn_rl; snn_rl.__version__; snn_rl.__all__")
    assert "snn_rl" in found
    assert not found & set(HEAVY)


def test_the_command_line_starts_without_anything_heavy() -> None:
    assert not loaded_modules("import snn_rl.cli") & set(HEAVY)


def test_loading_an_agent_needs_no_rival_and_no_plots() -> None:
    found = loaded_modules("import snn_rl; snn_rl.load_agent")
    assert "safetensors" in found
    assert not found & {
        "torch",
        "gymnasium",
        "cv2",
        "stable_baselines3",
        "matplotlib",
        "tensorboard",
        "pydantic",
    }


def test_every_public_name_is_there() -> None:
    for name in snn_rl.__all__:
        home = snn_rl._HOME[name]
        assert getattr(snn_rl, name) is getattr(import_module(home), name)
        assert f"from {home} import" in Path(snn_rl.__file__).read_text(), "for type checkers"
    assert snn_rl.Agent is Agent
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = snn_rl.nonsense


BELOW = {
    "errors": set(),
    "core": {"errors"},
    "support": {"errors"},
    "conversion": {"core", "errors"},
    "inference": {"core", "errors"},
    "energy": {"core", "support", "errors"},
    "exchange": {"core", "conversion", "inference", "errors"},
    "envs": {"inference"},
    "runs": {"core", "inference", "support", "errors"},
}
"""What every room may import; `envs` borrows the pipeline of observations."""
BELOW["vision"] = {*BELOW} - {"exchange", "envs"}
BELOW["agents"] = {*BELOW} - {"vision"}
BELOW["commands"] = {*BELOW}


def imported(file: Path) -> Iterator[str]:
    """All rooms that a file names in an import, at its head, in a function or for types alone."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == "snn_rl" and rest.partition(".")[0] in BELOW:
                yield rest.partition(".")[0]


@pytest.mark.parametrize("room", BELOW)
def test_rooms_import_what_lies_below_them_alone(room: str) -> None:
    root = Path(__file__).parent.parent
    place = root / room if room in ("agents", "envs") else root / "snn_rl" / room
    files = list(place.rglob("*.py")) or [place.with_suffix(".py")]
    wrong = {str(f.relative_to(root)): {*imported(f)} - BELOW[room] - {room} for f in files}
    assert not {file: rooms for file, rooms in wrong.items() if rooms}
