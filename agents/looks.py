"""Says, once, where frames do not look like those that an agent was trained on.

An agent of an Atari game plays silently badly on frames of another frame skip, or max-pooled ones.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.automatic import ChangeCounter
from snn_rl.inference.observation import ObservationPipeline

log = logging.getLogger(__name__)

FIRST, FRAMES = 256, 1024
"""Frames that are left out, since games begin otherwise than they go on, and that are counted."""
LEAST = 0.7
"""Share of training's changed pixels: at a quarter of its frame skip Pong has half of them, and
over so many frames of right ones between 0.9 and 1.1."""
REMEDY = "snn_rl.envs.make(agent) shows the frames that it was trained on"


class Looks:
    """Looks at an Atari agent's observations until it has told, or seen enough.

    Args:
        card: of the agent, with the changed pixels per frame of its own games where it is known.
    """

    def __init__(self, pipeline: ObservationPipeline, card: Mapping[str, Any]) -> None:
        self.over = not pipeline.pixels or pipeline.grey != "ale"
        self.pipeline = pipeline
        self.maxpool = bool(card.get("environment", {}).get("maxpool", False))
        known = card.get("results", {}).get("changed_pixels")
        self.changed = float(known) if isinstance(known, int | float) else None
        self.seen, self.counter = 0, ChangeCounter()

    def observe(
        self, shape: tuple[int, ...], frames: NDArray[Any], start: NDArray[np.bool_]
    ) -> None:
        """Take note of frames [batch, 1, side, side], and of an observation's shape as it came."""
        side = self.pipeline.side
        if shape == (side, side) or shape[-3:] == (side, side, 1):
            if not self.maxpool:
                self._tell(
                    "preprocessed frames, as of Gymnasium's AtariPreprocessing, are max-pooled, "
                    "but this agent was trained without"
                )
            self.over = True
        elif shape[-3:] == self.pipeline.frame_shape or self.changed is None:
            self.over = True
        else:
            self._count(frames, start, self.changed)

    def _count(self, frames: NDArray[Any], start: NDArray[np.bool_], trained: float) -> None:
        """Raw screens: those of every emulated frame change less than those of every fourth."""
        self.seen += len(frames)
        if self.seen > FIRST:
            self.counter.observe(frames, start)
        self.over = self.counter.frames >= FRAMES
        if self.over and (mean := self.counter.mean or 0.0) < LEAST * trained:
            self._tell(
                f"the frames change in {mean:.0f} pixels each, where it was {trained:.0f} when "
                "this agent was scored, as if a frame skip were missing"
            )

    def _tell(self, what: str) -> None:
        log.warning("%s: %s", what, REMEDY)
