"""What an agent's card says of its training: plain data, kept beside the weights."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch

from snn_rl.agents.training import Result


def provenance(command: str, seed: int, result: Result, device: torch.device) -> dict[str, Any]:
    """How a stage came about: command, seed, cost, machine, versions."""
    return {
        "command": command,
        "seed": seed,
        "steps": result.steps,
        "updates": result.updates,
        "seconds": round(result.seconds, 1),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(device),
        "versions": {name: metadata.version(name) for name in ("snn-rl", "torch", "gymnasium")},
    }


def hardware(device: torch.device) -> str:
    """The processor that trains, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
