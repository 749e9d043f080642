"""Environments that fail, answer what Gymnasium has not, or cannot be shown: each is named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from snn_rl.agents.acting import full_state
from snn_rl.envs import EnvironmentFailure, UnsupportedEnvironment, check_spaces, make_vector
from snn_rl.envs.pictures import RenderedPictures
from snn_rl.envs.shown import FULL_STATE
from snn_rl.envs.spaces import make_single
from snn_rl.errors import SnnRlError

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from environments import Remembering


class Odd(gym.Env[Any, Any]):
    """Answers as it is told."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, reset: Any = None, step: Any = None, made: Any = None) -> None:
        if made is not None:
            raise made
        self.answers = (np.zeros(2, np.float32), {}) if reset is None else reset, step

    def reset(self, **_: Any) -> Any:
        return self._answer(self.answers[0])

    def step(self, action: Any) -> Any:
        return self._answer(self.answers[1])

    def _answer(self, answer: Any) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer


ZERO, WIDE = np.zeros(2, np.float32), np.zeros(2)
SEEN = {FULL_STATE: ZERO}


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"made": RuntimeError("no licence")}, UnsupportedEnvironment, "be created: no licence"),
        ({"made": SystemExit(0)}, UnsupportedEnvironment, "cannot be created: 0"),
        ({"reset": ZERO}, UnsupportedEnvironment, r"returned float32 \(2,\) in reset\(\), where"),
        ({"reset": KeyError("scene")}, EnvironmentFailure, r"failed in reset\(\): 'scene'"),
        ({"step": (ZERO, 0.0, False, {})}, UnsupportedEnvironment, "in step 1 .* five values"),
        ({"step": (ZERO, None, False, False, {})}, UnsupportedEnvironment, "returned None .*num"),
        ({"step": (ZERO, np.nan, False, False, {})}, UnsupportedEnvironment, "a finite number"),
        ({"step": (np.zeros(3), 0.0, False, False, {})}, UnsupportedEnvironment, r"float64 \(3,\)"),
        ({"step": (None, 0.0, False, False, {})}, UnsupportedEnvironment, "returned None"),
        ({"step": (ZERO + np.nan, 0.0, False, False, {})}, UnsupportedEnvironment, "finite num"),
        ({"step": (WIDE + 1e300, 0.0, False, False, {})}, UnsupportedEnvironment, "finite numbers"),
        (
            {"reset": (ZERO + 1j, {})},
            UnsupportedEnvironment,
            r"complex\d+ \(2,\) in reset",
        ),
        ({"step": (ZERO, 0.0, None, False, {})}, UnsupportedEnvironment, "None .*for terminated"),
        ({"step": (ZERO, 0.0, False, "no", {})}, UnsupportedEnvironment, "'no' .*for truncated"),
        ({"step": (ZERO, 0.0, np.ones(2, bool), False, {})}, UnsupportedEnvironment, r"bool \(2,"),
        (
            {
                "reset": (ZERO, {FULL_STATE: ZERO}),
                "step": (ZERO, 0.0, False, False, {FULL_STATE: [1]}),
            },
            UnsupportedEnvironment,
            r"finite numbers of shape \(2,\) for info\['full_state'\]",
        ),
        ({"step": SystemExit(0)}, EnvironmentFailure, "Odd-v0 failed in step 1 of an episode: 0"),
        ({"step": OSError("hung up")}, EnvironmentFailure, "in step 1 of an episode: hung up"),
    ],
)
def test_every_failure_names_the_environment_its_step_and_what_it_gave(
    kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    gym.register("Odd-v0", Odd)
    try:
        with pytest.raises(error, match=message) as caught:
            vector = make_vector("Odd-v0", 1, seed=0, env_kwargs=kwargs)
            vector.reset()
            vector.step(np.zeros(1, np.int64))
    finally:
        del gym.registry["Odd-v0"]
    assert "Odd-v0" in str(caught.value)
    assert "\n" not in str(caught.value)


class Legal(Odd):
    """Its infos fit into no array over several environments; closing it fails."""

    def _answer(self, answer: Any) -> Any:
        info = {"legal": np.arange(self.np_random.integers(9)), "mood": self.np_random.choice([3])}
        return (
            (ZERO, info) if answer is self.answers[0] else (ZERO, 0.0, False, np.array([0]), info)
        )

    def close(self) -> None:
        raise OSError("still open")


def test_what_nobody_reads_may_be_anything(caplog: pytest.LogCaptureFixture) -> None:
    gym.register("Legal-v0", Legal)
    try:
        vector = make_vector("Legal-v0", 3, seed=0)
        vector.reset()
        for _ in range(9):
            vector.step(np.zeros(3, np.int64))
        vector.close()
        env = make_single("Legal-v0")
        assert "legal" in env.reset(seed=0)[1]  # whoever holds it alone may read it
        env.close()
    finally:
        del gym.registry["Legal-v0"]
    assert caplog.text.count("Legal-v0 failed in close(): still open") == 4


@pytest.mark.parametrize(
    ("space", "outside"),
    [
        (spaces.Discrete(3), -1),
        (spaces.MultiDiscrete([3, 4]), np.array([0, 4])),
        (spaces.MultiBinary(2), np.array([0, 2])),
    ],
)
def test_values_that_their_space_does_not_have_are_refused(
    space: gym.Space[Any], outside: Any
) -> None:
    gym.register("Outside-v0", Remembering, kwargs={"seen": space})
    try:
        env = make_single("Outside-v0")
        env.unwrapped.reset = lambda **_: (outside, {})  # type: ignore[method-assign]
        with pytest.raises(UnsupportedEnvironment, match=r"Outside-v0 returned .* in reset\(\)"):
            env.reset(seed=0)
    finally:
        del gym.registry["Outside-v0"]


def test_a_full_state_that_comes_now_and_then_teaches_nobody() -> None:
    class Moody(Odd):
        def _answer(self, answer: Any) -> Any:
            self.count = getattr(self, "count", 0) + 1
            info = {FULL_STATE: ZERO} if self.count == 1 else {}
            return (ZERO, info) if self.count == 1 else (ZERO, 0.0, self.count == 2, False, info)

    gym.register("Moody-v0", Moody)
    try:
        vector = make_vector("Moody-v0", 2, seed=0)
        _, info = vector.reset()
        assert full_state(info, "Moody-v0").shape == (2, 2)
        with pytest.raises(SnnRlError, match="Moody-v0 reports no info"):
            full_state(vector.step(np.zeros(2, np.int64))[-1], "Moody-v0")
    finally:
        del gym.registry["Moody-v0"]


def test_a_picture_that_fails_names_the_environment() -> None:
    class Torn(Odd):
        metadata: ClassVar = {"render_modes": ["rgb_array"]}

        def render(self) -> Any:
            raise RuntimeError("no screen")

    gym.register("Torn-v0", Torn)
    try:
        vector = make_vector("Torn-v0", 1, seed=0)
        pictures = RenderedPictures(vector, "Torn-v0")
        vector.reset()
        with pytest.raises(EnvironmentFailure, match=r"Torn-v0 failed in render\(\): no screen"):
            pictures.begin(0)
    finally:
        del gym.registry["Torn-v0"]


@pytest.mark.parametrize(
    ("there", "message"),
    [({}, "has no observation space"), ({"observation_space": [0, 1]}, r"has \[0, 1\] where its")],
)
def test_spaces_that_are_none_are_named(there: dict[str, Any], message: str) -> None:
    kind = type("Bare", (gym.Env,), {"action_space": spaces.Discrete(2), **there})
    gym.register("Bare-v0", kind)
    try:
        with pytest.raises(UnsupportedEnvironment, match=f"'Bare-v0' {message}"):
            check_spaces("Bare-v0")
    finally:
        del gym.registry["Bare-v0"]


def test_what_cannot_be_shown_is_refused_with_a_remedy() -> None:
    for seen, actions, remedy in [
        (spaces.Sequence(spaces.Discrete(2)), spaces.Discrete(2), "TransformObservation"),
        (spaces.Box(0, 1, (0,)), spaces.Discrete(2), "without any number"),
        (spaces.Discrete(2), spaces.MultiDiscrete([2, 2]), "TransformAction"),
    ]:

        class Unfit(Odd):
            observation_space, action_space = seen, actions  # type: ignore[assignment]

        gym.register("Unfit-v0", Unfit)
        with pytest.raises(UnsupportedEnvironment, match=f"'Unfit-v0' .*{remedy}"):
            check_spaces("Unfit-v0")
        del gym.registry["Unfit-v0"]
