"""What `precision: auto` becomes on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from snn_rl.errors import SnnRlError
from snn_rl.vision import precision
from snn_rl.vision.config import VisionConfig
from snn_rl.vision.precision import check_bf16, faster, settled, step_seconds

AUTO = VisionConfig(dataset="cifar10", device="cpu")


def disturbed(single: list[float], half: list[float]) -> Iterator[float]:
    for a, b in zip(single, half, strict=True):
        yield a
        yield b


@pytest.mark.parametrize(
    ("single", "half", "expected"),
    [
        ([2.0, 2.1, 9.0, 2.2], [1.0, 8.0, 1.1, 1.2], True),
        ([2.0, 2.1, 9.0, 2.2], [1.9, 1.9, 8.0, 2.0], False),  # not by enough
        ([1.0, 1.1, 1.2, 9.0], [3.0, 2.0, 2.5, 2.2], False),
    ],
)
def test_the_best_turns_decide(single: list[float], half: list[float], expected: bool) -> None:
    times = disturbed(single, half)
    assert faster(lambda _: next(times)) is expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_really_run(dtype: torch.dtype) -> None:
    """Forward, and backward with respect to weights and input: 3 times the multiplications."""
    with FlopCounterMode(display=False) as counter:
        step_seconds(dtype)
    macs = 16 * 64 * 64 * 9 * (32 * 32 + 30 * 30)
    assert counter.get_total_flops() == 2 * 3 * macs


def test_auto_is_settled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on keeps what it began with, whatever a new measurement would say."""
    monkeypatch.setattr(precision, "processor_flags", lambda: ["avx2", "avx512_bf16"])
    monkeypatch.setattr(precision, "faster", lambda _: True)
    found = settled(AUTO, tmp_path)
    assert found.precision == "bfloat16"
    assert settled(AUTO, tmp_path, processes=2).precision == "float32"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(found.model_dump()))
    monkeypatch.setattr(precision, "faster", lambda _: False)
    assert settled(AUTO, tmp_path).precision == "bfloat16"
    assert settled(AUTO, tmp_path / "other").precision == "float32"


def test_a_processor_without_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "processor_flags", lambda: ["avx2"])
    assert settled(AUTO, tmp_path).precision == "float32"
    with pytest.raises(SnnRlError, match="no bfloat16 units"):
        settled(AUTO.model_copy(update={"precision": "bfloat16"}), tmp_path)
    check_bf16(["amx_bf16"])
