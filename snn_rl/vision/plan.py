"""What a stage of a classifier trains and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from snn_rl.conversion.temporal_pruning import Stage
from snn_rl.conversion.weight_pruning import Masks
from snn_rl.vision.config import StageConfig


@dataclass(frozen=True)
class StagePlan:
    """How a stage is trained."""

    name: str
    timesteps: int
    epochs: int
    config: StageConfig
    seed: int
    teacher: Stage | None = None
    """whose logits it distils"""
    masks: Masks = field(default_factory=dict)
    """weights that stay"""
