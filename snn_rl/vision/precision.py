"""Which precision a run computes in: what `auto` means here, found out once and then kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from snn_rl.errors import SnnRlError
from snn_rl.runs.folder import CONFIG
from snn_rl.runs.provenance import processor_flags
from snn_rl.vision.config import VisionConfig, read_config

BF16_UNITS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
GAIN = 1.15
"""bfloat16 has to be so many times as fast as float32 on a CPU: its rounding is not free."""
TURNS = 4


def settled(config: VisionConfig, folder: Path, processes: int = 1) -> VisionConfig:
    """`config` with a precision in place of `auto`.

    A GPU takes bfloat16 (float16 where it lacks that), a CPU what it is faster in. A run that
    `folder` holds keeps its own, so that it goes on exactly; several processes on CPUs, whose
    measurements could differ, take float32.

    Raises:
        SnnRlError: bfloat16 is asked for on a CPU without units for it.
    """
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    if config.precision == "bfloat16" and not on_gpu:
        check_bf16(processor_flags())
    if config.precision != "auto":
        return config
    path = folder / CONFIG
    if path.exists():
        precision = read_config(path).precision
    elif on_gpu:
        precision = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    elif processes > 1 or not bf16_units(processor_flags()):
        precision = "float32"
    else:
        precision = "bfloat16" if faster(step_seconds) else "float32"
    return config.model_copy(update={"precision": precision})


def bf16_units(flags: Iterable[str]) -> bool:
    """Whether a processor with these flags multiplies bfloat16 by itself."""
    return not BF16_UNITS.isdisjoint(flags)


def check_bf16(flags: Iterable[str]) -> None:
    """Raise SnnRlError unless a processor with these flags has units for bfloat16."""
    if not bf16_units(flags):
        raise SnnRlError(
            "this processor has no bfloat16 units and would only emulate them: use "
            "precision=auto or float32"
        )


def faster(seconds: Callable[[torch.dtype], float]) -> bool:
    """Whether bfloat16 pays, by the best of interleaved turns: other work disturbs both alike."""
    turns = [(seconds(torch.float32), seconds(torch.bfloat16)) for _ in range(TURNS)]
    single, half = (min(found) for found in zip(*turns, strict=True))
    return bool(single >= GAIN * half)


def step_seconds(precision: torch.dtype) -> float:
    """CPU time of a forward and backward pass of two convolutions under autocast."""
    layers = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3))
    layers = layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.zeros(16, 64, 32, 32).contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    began = time.thread_time()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        loss = layers(images).float().sum()
    loss.backward()
    return time.thread_time() - began
