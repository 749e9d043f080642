"""The checks of style see every file: a room is not left out by its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("snn_rl", "agents", "envs", "configs", "benchmarks", "tests")


def test_ruff_sees_every_file() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--show-files", "."],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    seen = {Path(line).resolve() for line in done.stdout.splitlines()}
    there = {path.resolve() for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert not {str(path.relative_to(ROOT)) for path in there - seen}
