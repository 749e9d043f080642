"""`snn-rl benchmark lif`: contenders that do the same are timed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from commands import snn_rl_command

from snn_rl.agents.bench.lif import contenders, lif_times


def test_contenders_give_the_same_spikes_and_a_gradient() -> None:
    current = (torch.randn(10, 4, 50, generator=torch.Generator().manual_seed(0)) + 0.3).clamp(
        max=0.99
    )
    layers = contenders()
    expected = layers["snn-rl"](current)
    assert 0.05 < float(expected.mean()) < 0.95
    for layer in layers.values():
        x = current.clone().requires_grad_()
        spikes = layer(x)
        spikes.sum().backward()
        assert float((spikes != expected).float().mean()) < 0.005  # ties that rounding decides
        assert x.grad is not None and x.grad.abs().sum() > 0


def test_every_contender_has_a_row_for_each_shape_and_t() -> None:
    rows = lif_times(1, (1, 3), ((2, 5),))
    assert [row["T"] for row in rows if row["contender"] == "snn-rl"] == [1, 3]
    assert all(row["forward_ms"] > 0 and row["backward_ms"] > 0 for row in rows)
    assert all(row["ratio"] == 1 for row in rows if row["contender"] == "snn-rl")


def test_the_command_prints_json(tmp_path: Path) -> None:
    done = snn_rl_command(
        "benchmark", "lif", "--repeats", "1", "--timesteps", "1", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert {row["T"] for row in json.loads(done.stdout)} == {1}
