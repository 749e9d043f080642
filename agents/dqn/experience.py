"""What a stage learns from: its replay, and the segments that its updates take from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from snn_rl.agents.dqn.plan import StagePlan
from snn_rl.agents.dqn.replay import Segment, SegmentReplay, spare_rows
from snn_rl.agents.dqn.spans import Spans, spans_of
from snn_rl.core.network import State
from snn_rl.errors import SnnRlError


class Experience:
    """The replay of a stage.

    Args:
        files: folder of its arrays where the stage is to be resumed; None keeps them in memory.

    Attributes:
        before: the network's state at the start of the newest roll-out in the replay.

    Raises:
        SnnRlError: the replay is too small.
    """

    def __init__(self, plan: StagePlan, files: Path | None) -> None:
        self.config = plan.config
        self.device = plan.policy.network.device
        self.spans = spans_of(plan.policy, plan.config)
        self.replay = _make_replay(plan, self.spans, files if self.is_resumed else None)
        self.generator = np.random.default_rng(plan.seed)
        self.before: State = ()
        self._saved_rows = 0

    @property
    def is_resumed(self) -> bool:
        """Whether a resumed stage needs what the replay holds."""
        return self.config.replay > 0 or self.config.overlap

    @property
    def suffices(self) -> bool:
        """Whether the replay holds a segment."""
        return bool(self.replay.firsts(self.spans.length))

    def segments(self) -> Iterator[Segment]:
        """Data of the updates after a roll-out: drawn from the replay, or the roll-out itself,
        divided among the updates by environment, from the state it really began in."""
        config, spans = self.config, self.spans
        if config.replay:
            for _ in range(config.updates):
                yield self.replay.sample(self.generator, config.batch, spans.length, spans.burn_in)
            return
        for envs in np.array_split(self.generator.permutation(config.num_envs), config.updates):
            yield self.replay.newest(spans.length, self.before, envs)

    def outlives_roll_out(self) -> bool:
        """Whether all that the last save needs is still there after the next roll-out."""
        kept = self.replay.keeps(self._saved_rows, self.config.rollout)
        return kept or not self.is_resumed

    def saved(self) -> None:
        """Take note of a save."""
        self._saved_rows = self.replay.written

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training, but for the replay's arrays."""
        return {
            "written": self.replay.written,
            "before": self.before if self.config.overlap else (),
            "generator": self.generator.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a state that `state_dict` gave."""
        self.replay.written = self._saved_rows = state["written"]
        self.before = tuple(tensor.to(self.device) for tensor in state["before"] or ())
        self.generator.bit_generator.state = state["generator"]


def _make_replay(plan: StagePlan, spans: Spans, files: Path | None) -> SegmentReplay:
    config, network = plan.config, plan.policy.network
    rows = config.replay // config.num_envs if config.replay else config.rollout
    if rows < spans.rows:
        needed = spans.rows * config.num_envs
        raise SnnRlError(f"{plan.name}: replay must hold at least {needed} transitions")
    spare = 0
    if files is not None:
        total = config.steps // config.num_envs
        spare = spare_rows(rows, network.input_shape, rollout=config.rollout, total=total)
    return SegmentReplay(
        config.num_envs,
        rows,
        network.input_shape,
        pixels=network.pixels,
        teacher_actions=plan.task.num_actions if plan.labeller else 0,
        spare=spare,
        files=files,
        state=plan.policy.initial_state(config.num_envs),
        every=spans.every,
    )
