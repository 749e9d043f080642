"""Segment replay: a ring that stores each frame once and cuts contiguous segments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_rl.agents.dqn.replay import Segment, SegmentReplay, Step

ENVS = 3


def step(number: int, envs: int = ENVS, *, teacher: bool = False, **changes: Any) -> Step:
    """A step whose every value tells its number and environment: 1000 * environment + number."""
    code = 1000 * np.arange(envs) + number
    values: dict[str, Any] = {
        "frame": np.stack([code, -code], 1).astype(np.float32),
        "start": np.full(envs, number % 7 == 0),
        "last": np.full(envs, number % 7 == 6),
        "action": code % 5,
        "reward": code.astype(np.float32),
        "terminated": np.full(envs, number % 14 == 5),
        "truncated": np.full(envs, number % 14 == 12),
        "teacher_q": np.stack([code, 2 * code], 1).astype(np.float32) if teacher else None,
    }
    return Step(**(values | changes))


def filled(rows: int, steps: int, *, teacher: bool = False) -> SegmentReplay:
    replay = SegmentReplay(ENVS, rows, (2,), pixels=False, teacher_actions=2 if teacher else 0)
    for number in range(steps):
        replay.append(step(number, teacher=teacher))
    return replay


def numbers(segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    """Step numbers [F, B] and environments [F, B] that a segment's frames came from."""
    code = segment.frames[..., 0].astype(int)
    return code % 1000, code // 1000


def check(segment: Segment, replay: SegmentReplay, length: int, newest: int) -> None:
    number, env = numbers(segment)
    assert len(number) == length
    assert (np.diff(number, axis=0) == 1).all(), "not contiguous"
    assert (env == env[0]).all(), "frames of several environments in one segment"
    assert number.min() >= newest - len(replay), "older than what the ring holds"
    assert number.max() < newest
    code = 1000 * env + number
    np.testing.assert_array_equal(segment.frames, np.stack([code, -code], 2))
    np.testing.assert_array_equal(segment.start, number % 7 == 0)
    np.testing.assert_array_equal(segment.valid, number % 7 != 6)
    np.testing.assert_array_equal(segment.action, code % 5)
    np.testing.assert_array_equal(segment.reward, code)
    np.testing.assert_array_equal(segment.terminated, number % 14 == 5)
    np.testing.assert_array_equal(segment.truncated, number % 14 == 12)
    if segment.teacher_q is not None:
        np.testing.assert_array_equal(segment.teacher_q, np.stack([code, 2 * code], 2))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.data())
def test_segments_are_contiguous_whole_and_from_one_environment(
    rows: int, steps: int, data: st.DataObject
) -> None:
    replay = filled(rows, steps, teacher=True)
    assert len(replay) == min(rows, steps)
    length = data.draw(st.integers(1, len(replay)))
    check(replay.sample(np.random.default_rng(steps), 50, length), replay, length, steps)
    newest = replay.newest(length, None)
    check(newest, replay, length, steps)
    number, env = numbers(newest)
    np.testing.assert_array_equal(number[-1], steps - 1)
    np.testing.assert_array_equal(env[0], range(ENVS))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 60))
def test_refuses_segments_longer_than_what_it_holds(rows: int, steps: int, length: int) -> None:
    replay = filled(rows, steps)
    if length <= len(replay):
        return
    message = f"the replay holds {len(replay)} rows; a segment needs {length}"
    with pytest.raises(ValueError, match=message):
        replay.sample(np.random.default_rng(0), 4, length)
    with pytest.raises(ValueError, match=message):
        replay.newest(length, None)


def test_an_empty_replay_refuses() -> None:
    replay = SegmentReplay(ENVS, 4, (2,), pixels=False)
    assert len(replay) == 0
    with pytest.raises(ValueError, match="holds 0 rows"):
        replay.sample(np.random.default_rng(0), 1, 1)


def test_every_segment_is_drawn_equally_often() -> None:
    replay = filled(10, 27)
    segment = replay.sample(np.random.default_rng(1), 24_000, 3)
    number, env = numbers(segment)
    counts = np.unique(1000 * env[0] + number[0], return_counts=True)[1]
    assert len(counts) == ENVS * 8
    assert counts.min() > 850
    assert counts.max() < 1150


def test_each_frame_is_stored_once() -> None:
    rows, frame = 50, (1, 84, 84)
    replay = SegmentReplay(ENVS, rows, frame, pixels=True)
    frames = [array for array in vars(replay).values() if getattr(array, "ndim", 0) >= 3]
    big = [array for array in frames if array.nbytes >= ENVS * 84 * 84]
    assert [array.nbytes for array in big] == [ENVS * rows * 84 * 84]
    assert big[0].dtype == np.uint8
    # A segment of one environment is one block of memory.
    one = replay.frames[0, 3:9]
    assert one.flags["C_CONTIGUOUS"]


def test_pixels_come_back_unchanged() -> None:
    replay = SegmentReplay(2, 3, (1, 4, 4), pixels=True)
    frames = np.random.default_rng(0).integers(256, size=(5, 2, 1, 4, 4)).astype(np.uint8)
    for number, frame in enumerate(frames):
        replay.append(step(number, 2, frame=frame))
    newest = replay.newest(3, None)
    assert newest.frames.dtype == np.uint8
    np.testing.assert_array_equal(newest.frames, frames[2:])


def test_what_is_appended_is_copied() -> None:
    replay = SegmentReplay(ENVS, 3, (2,), pixels=False)
    given_step = step(1)
    replay.append(given_step)
    given_step.frame[:] = 99
    assert (replay.newest(1, None).frames != 99).all()


def test_newest_hands_over_the_state_and_samples_have_none() -> None:
    replay = filled(8, 20)
    state = (torch.ones(ENVS, 4),)
    assert replay.newest(8, state).state is state
    assert replay.newest(8, None).state is None
    assert replay.sample(np.random.default_rng(0), 2, 3).state is None


def test_newest_of_some_environments() -> None:
    replay = filled(8, 20, teacher=True)
    state = (torch.arange(ENVS).view(ENVS, 1).expand(ENVS, 4),)
    segment = replay.newest(5, state, np.array([2, 0]))
    check(segment, replay, 5, 20)
    assert numbers(segment)[1][0].tolist() == [2, 0]
    assert segment.state is not None
    assert segment.state[0].tolist() == [[2] * 4, [0] * 4]


def test_without_a_teacher_there_are_no_labels() -> None:
    assert filled(4, 6).newest(2, None).teacher_q is None
    labels = filled(4, 6, teacher=True).newest(2, None).teacher_q
    assert labels is not None
    assert labels.shape == (2, ENVS, 2)


def test_many_actions_are_kept_exactly() -> None:
    replay = SegmentReplay(ENVS, 2, (2,), pixels=False)
    replay.append(step(0, action=np.array([0, 17, 1000])))
    segment = replay.newest(1, None)
    assert segment.action.dtype == np.int64
    assert segment.action.tolist() == [[0, 17, 1000]]
