"""`snn-rl benchmark step`: a training step of every network, and its ratio to the ANN's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import snn_rl_command


def test_every_network_is_measured_against_the_ann(tmp_path: Path) -> None:
    done = snn_rl_command("benchmark", "step", "--repeats", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    names = ("NatureCNN 84x84", "CartPole MLP")
    stages = [("ann", 1), ("T1", 1), ("T3", 3), ("T5", 5)]
    found = [(row["network"], row["stage"], row["T"]) for row in rows]
    assert found == [(name, *stage) for name in names for stage in stages]
    for row in rows:
        ann = next(r for r in rows if r["network"] == row["network"] and r["stage"] == "ann")
        if row is not ann:
            assert row["ratio"] == pytest.approx(row["ms"] / ann["ms"])
    assert snn_rl_command("benchmark", "step", "--repeats", "0", cwd=tmp_path).returncode == 2
