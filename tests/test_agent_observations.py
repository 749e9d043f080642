"""What an agent takes as an observation, and what it refuses, naming both shapes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from made_agents import make_agent, observations, pixel_agent

from snn_rl.core.state import leaves


def test_another_number_of_observations_needs_a_reset() -> None:
    agent = make_agent()
    agent.act(observations(1, 3)[0])
    before = agent.state
    for wrong in (observations(1, 4)[0], observations(1)[0]):
        with pytest.raises(ValueError, match=r"remembers 3 environments: call reset\(\) first"):
            agent.act(wrong)
    after = agent.state
    assert before is not None
    assert after is not None
    assert all(np.array_equal(a, b) for a, b in zip(leaves(before), leaves(after), strict=True))
    agent.reset()
    agent.act(observations(1, 4)[0])


@pytest.mark.parametrize(
    ("observation", "named"),
    [
        (np.zeros(3, np.float32), r"\(3,\) float32"),
        (np.zeros((4, 3), np.float32), r"\(4, 3\) float32"),
        (np.zeros((2, 2, 2), np.float32), r"\(2, 2, 2\) float32"),
        (np.zeros((0, 2), np.float32), r"\(0, 2\) float32"),
        (np.float32(1), r"\(\) float32"),
        (np.zeros(2, np.bool_), r"\(2,\) bool"),
        (np.zeros(2, np.complex64), r"\(2,\) complex64"),
        (np.array(["a", "b"]), r"\(2,\) <U1"),
        (None, r"\(\) object"),
    ],
)
def test_observations_that_do_not_fit_are_refused_naming_both(observation: Any, named: str) -> None:
    agent = make_agent()
    agent.act(observations(1)[0])
    before = agent.q_values(observations(1)[0])
    with pytest.raises(ValueError, match=rf"{named}; this agent takes \(2,\) float"):
        agent.act(observation)
    again = make_agent()
    again.act(observations(1)[0])
    np.testing.assert_array_equal(again.q_values(observations(1)[0]), before)
    np.testing.assert_array_equal(  # and nothing was forgotten
        agent.q_values(observations(1)[0]), again.q_values(observations(1)[0])
    )


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300])
def test_observations_that_are_not_finite_are_refused(number: float) -> None:
    agent = make_agent()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(ValueError, match="NaN or infinite"):
            agent.act(np.array([0.1, number]))
    assert agent.state is None


def test_images_raw_and_as_frames() -> None:
    agent = pixel_agent()
    raw = np.random.default_rng(0).integers(256, size=(3, 96, 60, 3)).astype(np.uint8)
    frames = agent.pipeline.encode(raw)
    assert frames.shape == (3, 1, 84, 84)
    expected = agent.q_values(raw)
    agent.reset()
    np.testing.assert_array_equal(agent.q_values(frames), expected)
    for i in range(3):
        for single in (raw[i], frames[i]):
            agent.reset()
            np.testing.assert_array_equal(agent.q_values(single), expected[i])


@pytest.mark.parametrize("kind", ["read-only", "mirrored", "strided"])
def test_arrays_of_any_memory_layout(kind: str) -> None:
    agent = pixel_agent()
    frame = np.random.default_rng(0).integers(256, size=(1, 84, 84)).astype(np.uint8)
    other = frame.copy()
    if kind == "read-only":
        other.flags.writeable = False
    elif kind == "mirrored":
        other = np.ascontiguousarray(other[..., ::-1])[..., ::-1]
    else:
        other = np.repeat(other, 2, axis=2)[..., ::2]
    expected = agent.q_values(frame)
    agent.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(agent.q_values(other), expected)


@pytest.mark.parametrize(
    ("observation", "named"),
    [
        (np.zeros((96, 60, 3), np.float32), r"\(96, 60, 3\) float32"),
        (np.zeros((60, 96, 3), np.uint8), r"\(60, 96, 3\) uint8"),
        (np.zeros((84, 80), np.uint8), r"\(84, 80\) uint8"),
        (np.zeros((1, 84, 84), np.int64), r"\(1, 84, 84\) int64"),
    ],
)
def test_images_that_do_not_fit_are_refused_naming_both(observation: Any, named: str) -> None:
    with pytest.raises(ValueError, match=rf"{named}; .*\(96, 60, 3\) uint8 or \(1, 84, 84\) uint8"):
        pixel_agent().act(observation)
