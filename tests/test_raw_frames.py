"""An agent may be given the pipeline's frames or the game's raw screens: it acts all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_atari import plain_game
from untrained import untrained_agent

from snn_rl.agents.agent import Agent
from snn_rl.core.state import leaves
from snn_rl.envs import AtariVector, make_vector
from snn_rl.envs.pictures import AtariPictures

PONG, PACMAN = "PongNoFrameskip-v4", "ALE/MsPacman-v5"
LASER_GATES = "ALE/LaserGates-v5"  # 250 lines; a colour that is another grey in OpenCV's formula
SEED = 7


def game(agent: Agent, screens: Any, sticky: float | None) -> Iterator[tuple[Any, ...]]:
    """One game that `agent` plays on the pipeline's frames; the raw screens beside them.

    Yields (frame [1, 84, 84], screen [height, width, 3], Q-values) of every decision.
    """
    vector = make_vector(agent.env_id, 1, seed=0, sticky=sticky)
    frames, info = vector.reset(seed=[SEED])  # type: ignore[arg-type]
    screen, follow = screens(vector, info)
    over = False
    while not over:
        q = agent.q_values(frames[0])
        yield frames[0], screen, q
        action = int(q.argmax())
        frames, _, terminated, truncated, _ = vector.step(np.array([action]))
        screen, over = follow(action), bool(terminated[0] or truncated[0])


def gymnasium_screens(vector: AtariVector, info: dict[str, Any]) -> tuple[Any, Any]:
    """Those of Gymnasium's own Atari environment."""
    env = plain_game(vector.game.env_id, SEED, int(info["episode_frame_number"][0]))
    return env.ale.getScreenRGB(), lambda action: env.step(action)[0]


def vector_screens(vector: AtariVector, _: dict[str, Any]) -> tuple[Any, Any]:
    """Those of ALE's vector environment, sticky actions included."""
    height = 250 if vector.game.rom == "laser_gates" else 210
    pictures = AtariPictures(vector, (height, 160), vector.game.sticky)
    return pictures.begin(SEED), pictures.follow


@pytest.mark.parametrize(
    ("env_id", "screens", "sticky", "limit"),
    [
        (PONG, gymnasium_screens, 0.0, None),
        (PACMAN, vector_screens, None, None),
        (LASER_GATES, vector_screens, None, 250),
    ],
)
def test_raw_screens_and_frames_give_the_same_game(
    env_id: str, screens: Any, sticky: float | None, limit: int | None
) -> None:
    agent = untrained_agent(env_id)
    raw = Agent(agent.policy, agent.pipeline, agent.card)
    actions: list[int] = []
    values: list[NDArray[Any]] = []
    for frame, screen, q in game(agent, screens, sticky):
        assert (frame.shape, screen.shape) == ((1, 84, 84), agent.pipeline.raw_shape)
        actions.append(int(q.argmax()))
        values.append(q)
        if len(actions) % 2:
            np.testing.assert_array_equal(raw.q_values(screen), q)
        else:
            assert raw.act(screen[None]).tolist() == actions[-1:]
        assert all(
            np.array_equal(a, b)
            for a, b in zip(leaves(agent.state), leaves(raw.state), strict=True)
        )
        if len(actions) == limit:
            break
    assert limit is not None or len(actions) > 300
    assert len(set(actions)) > 1, "it plays one action only"
    assert len(np.unique(values, axis=0)) > 20, "its values hardly change"
