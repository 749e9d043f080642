"""Which frames the segments of a stage hold, and where in the replay they start."""

from __future__ import annotations

from dataclasses import dataclass

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.policy import Policy


@dataclass(frozen=True)
class Spans:
    """Numbers of consecutive frames.

    Attributes:
        burn_in: that do not count: they fill the stack of frames or, from stored membranes on,
            build up those that the newest weights make.
        counted: over which gradients flow.
        bootstrap: behind those that count, where n-step returns end.
        every: the replay stores the network's state before each so-manieth frame, and segments
            start there; 0 stores none, and they start anywhere.
    """

    burn_in: int
    counted: int
    bootstrap: int
    every: int

    @property
    def length(self) -> int:
        """Frames of a segment."""
        return self.burn_in + self.counted + self.bootstrap

    @property
    def rows(self) -> int:
        """Frames that surely hold a segment."""
        return self.length + max(0, self.every - 1)


def spans_of(policy: Policy, config: LearnerConfig) -> Spans:
    """The spans of a stage's segments.

    A replay's segments start from the state that play had there (R2D2, Kapturowski et al. 2019),
    where anything is remembered from frame to frame. It is stored once per `config.segment` frames,
    so that the frames that count lie side by side from segment to segment, and memory holds few
    membranes: they are many times as large as a frame.
    """
    bootstrap = bootstrap_frames(config)
    if not config.replay:  # the newest roll-out, from the state that is known exactly
        return Spans(0, config.rollout - bootstrap, bootstrap, 0)
    if policy.remembers:
        return Spans(config.burn_in, config.segment, bootstrap, config.segment)
    return Spans(policy.network.stack - 1, config.segment, bootstrap, 0)


def bootstrap_frames(config: LearnerConfig) -> int:
    """Frames behind those that count, to bootstrap from; 0 where nothing is."""
    return config.n_step if max(config.td) > 0 else 0
