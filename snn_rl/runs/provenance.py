"""Where and when something was computed: processor, instruction sets, versions, date."""

from __future__ import annotations

import platform
import re
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import snn_rl

FLAGS = frozenset(
    re.findall(
        r"\w+",
        """
        avx avx2 fma f16c avx_vnni
        avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16
        amx_tile amx_int8 amx_bf16
        asimd asimddp sve sve2 bf16 i8mm
        """,
    )
)
"""Instruction sets that decide how fast, and in which order of summation, kernels run."""


@cache
def processor() -> str:
    """Name of the processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@cache
def processor_flags() -> list[str]:
    """Those of `FLAGS` that the processor has; empty where the system does not tell."""
    found = _cpuinfo("flags") or _cpuinfo("Features")
    return sorted(FLAGS.intersection(found.split()))


def hardware(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What computes, for a card."""
    name = f"{processor()}, {torch.get_num_threads()} thread(s)"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "hardware": name if processes == 1 else f"{processes} x {name}",
        "processor_flags": processor_flags(),
    }


def written() -> dict[str, Any]:
    """Date and versions, for a card."""
    others = {name: metadata.version(name) for name in ("torch", "gymnasium")}
    # A checkout on the path has no metadata.
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"snn-rl": snn_rl.__version__} | others,
    }


def bits_depend_on() -> dict[str, Any]:
    """What a training repeats bit for bit on, and on nothing else."""
    return {
        "processor": processor(),
        "processor_flags": processor_flags(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@cache
def _cpuinfo(entry: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(rf"^{entry}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
