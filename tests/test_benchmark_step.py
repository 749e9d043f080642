"""`snn-rl benchmark step`: a training step of every network, and its ratio to the ANN's."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from snn_rl.agents.bench import step


def test_every_network_is_measured_against_the_ann(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "SEGMENTS", 2)
    monkeypatch.setattr(step, "FRAMES", 4)
    code, out, err = call("benchmark", "step", "--repeats", "1", "--json")
    assert code == 0, err
    rows = json.loads(out)
    names = ("NatureCNN 84x84", "CartPole MLP")
    stages = [("ann", 1), ("T1", 1), ("T3", 3), ("T5", 5)]
    found = [(row["network"], row["stage"], row["T"]) for row in rows]
    assert found == [(name, *stage) for name in names for stage in stages]
    for row in rows:
        ann = next(r for r in rows if r["network"] == row["network"] and r["stage"] == "ann")
        if row is not ann:
            assert row["ratio"] == pytest.approx(row["ms"] / ann["ms"])
    assert call("benchmark", "step", "--repeats", "0")[0] == 2
