"""Membranes stored in the replay: drawn segments start from the state that play had there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from segments import spiking_network
from short_runs import Watcher, short
from test_replay import ENVS, step

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.dqn.experience import Experience
from snn_rl.agents.dqn.replay import Segment, SegmentReplay
from snn_rl.agents.dqn.rollout import Exploration, Rollout
from snn_rl.agents.dqn.spans import Spans, spans_of
from snn_rl.agents.policy import Policy
from snn_rl.agents.run import Run
from snn_rl.core.grid import snap
from snn_rl.core.state import filled, leaves
from snn_rl.envs import make_vector
from snn_rl.envs.observation import ObservationPipeline


def coded(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A state of all environments that tells its row and environment."""
    code = 1000 * torch.arange(ENVS) + number
    return (code.float()[:, None].expand(ENVS, 3), code.to(torch.uint8)[:, None, None])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 6), st.integers(1, 60), st.data())
def test_segments_start_where_a_state_is_stored(
    every: int, rows: int, spare: int, steps: int, data: st.DataObject
) -> None:
    replay = SegmentReplay(ENVS, rows, (2,), pixels=False, spare=spare, state=coded(0), every=every)
    for number in range(steps):
        replay.append(step(number, state=coded(number) if number % every == 0 else None))
    length = data.draw(st.integers(1, rows))
    possible = [
        first for first in range(max(0, steps - rows), steps - length + 1) if first % every == 0
    ]
    assert list(replay.firsts(length)) == possible
    if not possible:
        with pytest.raises(ValueError, match="a segment needs"):
            replay.sample(np.random.default_rng(0), 4, length)
        return
    segment = replay.sample(np.random.default_rng(0), 40, length, min(1, length - 1))
    assert segment.state is not None
    code = segment.frames[0, :, 0].astype(int)
    assert set(code % 1000) <= set(possible)
    assert segment.state[0].dtype == torch.float32
    np.testing.assert_array_equal(segment.state[0], np.repeat(code[:, None], 3, 1))
    np.testing.assert_array_equal(segment.state[1][:, 0, 0], code.astype(np.uint8))
    assert segment.burn_in == min(1, length - 1)


def test_a_state_in_the_wrong_row_is_refused() -> None:
    replay = SegmentReplay(ENVS, 4, (2,), pixels=False, state=coded(0), every=2)
    with pytest.raises(ValueError, match="row 0 needs a state"):
        replay.append(step(0))
    replay.append(step(0, state=coded(0)))
    with pytest.raises(ValueError, match="row 1 needs no state"):
        replay.append(step(1, state=coded(1)))


@pytest.mark.parametrize("stack", [1, 3])
def test_from_stored_states_play_is_repeated(stack: int) -> None:
    """Bit for bit: the Q-values that chose the actions come out again."""
    network = spiking_network(stack).eval()
    snap(network, 2)  # on the grid, sums are exact whatever the batch
    policy, envs, every = Policy(network, timesteps=2), 4, 5
    start = policy.initial_state(envs)
    replay = SegmentReplay(envs, 80, (4,), pixels=False, state=start, every=every)
    played: list[NDArray[np.float32]] = []
    q_values = policy.q_values

    def noted(*arguments: Any) -> Any:
        q, state = q_values(*arguments)
        played.append(q)
        return q[:, :2], state  # the network has an action more than the game

    policy.q_values = noted  # type: ignore[method-assign]
    pipeline, generator = ObservationPipeline("vector", (4,)), np.random.default_rng(0)
    vector = make_vector("CartPole-v1", envs, seed=0)
    rollout = Rollout(vector, "CartPole-v1", pipeline, policy, None, generator, state_every=every)
    for _ in range(8):  # roll-outs that end between two stored states
        rollout.collect(replay, 9, Exploration(0.3))
    vector.close()
    assert replay.start.sum() > 8
    firsts = replay.firsts(every)
    assert list(firsts) == list(range(0, 68, every))
    for first in firsts:
        rows = slice(first, first + every)
        with torch.no_grad():
            q, _ = policy.network(
                torch.from_numpy(replay.frames[:, rows]).transpose(0, 1),
                filled(start, [torch.from_numpy(a[:, first // every]) for a in replay.states]),
                torch.from_numpy(replay.start[:, rows]).T,
                timesteps=2,
            )
        np.testing.assert_array_equal(q.numpy(), np.stack(played[rows]))


def test_only_what_remembers_stores_states() -> None:
    config = LearnerConfig(segment=8, burn_in=4, n_step=3)
    network = spiking_network(stack=2)
    assert spans_of(Policy(network), config) == Spans(4, 8, 3, 8)
    assert spans_of(Policy(network, carry_membrane=False), config) == Spans(1, 8, 3, 0)
    newest = LearnerConfig(replay=0, updates=1, rollout=16, n_step=3)
    assert spans_of(Policy(network), newest) == Spans(0, 13, 3, 0)
    assert Spans(4, 8, 3, 8).rows == 15 + 7


@pytest.mark.parametrize("carry", [True, False])
def test_spiking_stages_learn_from_stored_states(
    tmp_path: Path, carry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Segment] = []
    segments = Experience.segments

    def noted(self: Experience) -> Any:
        for segment in segments(self):
            if self.config.burn_in:
                drawn.append(segment)
            yield segment

    monkeypatch.setattr(Experience, "segments", noted)
    replaying = {"replay": 256, "segment": 4, "burn_in": 2, "n_step": 2, "td": [1, 1], "batch": 8}
    spiking = replaying | {"distill": [0, 0], "steps": 512}
    Run(short(timesteps=1, carry_membrane=carry, spiking=spiking), tmp_path, Watcher()).train()
    assert len(drawn) >= 4
    states = [segment.state for segment in drawn]
    assert all((state is not None) == carry for state in states)
    if carry:  # also in the middle of an episode
        assert any(float(leaf.abs().max()) > 0 for state in states for leaf in leaves(state))
        assert all(segment.burn_in == 2 for segment in drawn)
