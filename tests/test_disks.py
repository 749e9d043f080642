"""A sample of benchmarks/disks.py: disks that are full or read-only, at one size."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from snn_rl.agents.show.outputs import GifFile, Mp4File
from snn_rl.errors import SnnRlError

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "disks.py"


@pytest.mark.parametrize("kind", ["replay", "vision"])
def test_a_disk_that_is_full_or_read_only_costs_nothing(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--only", kind, "--sizes", "1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("full, with") == 1


@pytest.mark.parametrize("kind", [Mp4File, GifFile])
def test_a_video_that_does_not_fit_is_told_and_leaves_nothing(
    tmp_path: Path, kind: type[Mp4File | GifFile]
) -> None:
    path = tmp_path / ("v.mp4" if kind is Mp4File else "v.gif")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    draw = np.random.default_rng(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises((SnnRlError, OSError)), kind(path, (64, 64), 30.0) as video:
            for _ in range(60):
                video.show(draw.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    with kind(path, (64, 64), 30.0) as video:
        for _ in range(60):
            video.show(draw.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
