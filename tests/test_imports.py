"""What importing costs: start-up stays light, and every public name is there."""

from __future__ import annotations

import subprocess
import sys

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
        assert getattr(snn_rl, name) is not None
    assert snn_rl.Agent is Agent
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = snn_rl.nonsense
