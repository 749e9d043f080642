"""The agent as a simulator uses it: act, memory, branching, saving, Stable-Baselines3."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_agents import ENV, OPTIONS, SCALE, card, make_agent, observations, values

from snn_rl.agents.agent import Agent
from snn_rl.agents.loading import load_agent
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import build_network, mlp
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.tracing import trace
from snn_rl.core.grid import snap
from snn_rl.core.state import leaves
from snn_rl.envs.observation import ObservationPipeline
from snn_rl.errors import CheckpointError


def pixel_agent() -> Agent:
    torch.manual_seed(0)
    ann = build_network((1, 84, 84), 2, stack=1, hidden=[])
    frames = torch.randint(0, 256, (2, 2, 1, 84, 84), dtype=torch.uint8)
    network = convert(ann, Calibration(frames), timesteps=1, carry_membrane=True, options=OPTIONS)
    snap(network, 1)
    pipeline = ObservationPipeline("image", (96, 60, 3))
    return Agent(Policy(network.eval()), pipeline, card("Some-v0"))


def test_single_and_batched_play_agree() -> None:
    agent = make_agent()
    batch = observations(40, 5)
    together = values(agent, batch)
    assert together.shape == (40, 5, 2)
    for i in range(5):
        agent.reset()
        np.testing.assert_array_equal(values(agent, batch[:, i]), together[:, i])
    agent.reset()
    actions = np.array([agent.act(observation) for observation in batch])
    np.testing.assert_array_equal(actions, together.argmax(2))
    agent.reset()
    single = [agent.act(observation) for observation in batch[:, 2]]
    assert single == together[:, 2].argmax(1).tolist()


def test_types_of_actions() -> None:
    agent = make_agent()
    assert type(agent.act(observations(1)[0])) is int
    agent.reset()
    actions = agent.act(observations(1, 3)[0])
    assert actions.shape == (3,)
    assert actions.dtype == np.int64
    agent.reset()
    assert agent.act(observations(1, 1)[0]).shape == (1,)
    agent.reset()
    assert agent.q_values([0.1, 0.2]).dtype == np.float32  # type: ignore[arg-type]
    agent.reset()
    assert type(agent.act(np.zeros(2, np.float64))) is int


def test_the_agent_remembers_until_it_is_reset() -> None:
    agent = make_agent()
    sequence = observations(30)
    first = values(agent, sequence)
    again = values(agent, sequence)
    assert not np.array_equal(first, again), "it has no memory"
    agent.reset()
    np.testing.assert_array_equal(values(agent, sequence), first)


def test_observations_are_scaled_by_the_pipeline() -> None:
    agent = make_agent()
    scaled = Agent(agent.policy, ObservationPipeline("vector", (2,)), agent.card)
    sequence = observations(10)
    np.testing.assert_array_equal(
        values(agent, sequence), values(scaled, sequence * np.array(SCALE, np.float32))
    )


def test_branching_a_simulation() -> None:
    agent = make_agent()
    assert agent.state is None
    values(agent, observations(7, seed=2))
    saved = agent.state
    one = values(agent, observations(9, seed=3))
    agent.state = saved
    other = values(agent, observations(9, seed=4))
    agent.state = saved
    np.testing.assert_array_equal(values(agent, observations(9, seed=3)), one)
    assert not np.array_equal(one, other)
    agent.state = None
    np.testing.assert_array_equal(
        values(agent, observations(5, seed=5)), values(make_agent(), observations(5, seed=5))
    )


def test_a_saved_state_is_a_copy() -> None:
    expected = values(make_agent(), observations(12))
    agent = make_agent()
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        np.testing.assert_array_equal(values(agent, observations(12)[part]), expected[part])
        saved = agent.state
        assert saved is not None
        if part.start == 4:
            agent.state = saved
        for array in leaves(saved):
            array.fill(7)


def test_a_state_of_one_agent_continues_in_its_copy(tmp_path: Path) -> None:
    agent = make_agent()
    agent.save(tmp_path / "a")
    other = load_agent(tmp_path / "a")
    values(agent, observations(6))
    other.state = agent.state
    np.testing.assert_array_equal(
        values(other, observations(6, seed=9)), values(agent, observations(6, seed=9))
    )


def test_agents_side_by_side_do_not_disturb_each_other() -> None:
    """Also those that share a network."""
    first, second = make_agent(0), make_agent(1)
    third = first.with_options(timesteps=3)
    agents = [first, second, third]
    sequences = [observations(20, seed=seed) for seed in range(3)]
    alone = []
    for agent, sequence in zip(agents, sequences, strict=True):
        alone.append(values(agent, sequence))
        agent.reset()
    mixed: list[list[Any]] = [[], [], []]
    for step in range(20):
        for i in (2, 0, 1):
            mixed[i].append(agents[i].q_values(sequences[i][step]))
        if step == 10:
            make_agent(2).act(sequences[0][step])
    for i in range(3):
        np.testing.assert_array_equal(mixed[i], alone[i])


def test_a_subset_can_be_reset() -> None:
    agent = make_agent()
    batch = observations(20, 4)
    start = np.array([False, True, False, True])
    agent_values = [agent.q_values(batch[i]) for i in range(10)]
    agent_values += [agent.q_values(batch[10], episode_start=start)]
    agent_values += [agent.q_values(batch[i]) for i in range(11, 20)]
    for i in range(4):
        fresh = make_agent()
        whole = values(fresh, batch[:, i])
        fresh.reset()
        restarted = values(fresh, batch[10:, i])
        found = np.array(agent_values)[10:, i]
        np.testing.assert_array_equal(found, restarted if start[i] else whole[10:])
        assert not np.array_equal(restarted, whole[10:])


def test_episode_start_of_a_single_environment() -> None:
    agent = make_agent()
    sequence = observations(8)
    first = values(agent, sequence)
    again = [agent.q_values(sequence[0], episode_start=np.array([True]))]
    again += [agent.q_values(o, episode_start=np.array([False])) for o in sequence[1:]]
    np.testing.assert_array_equal(again, first)


def test_episode_start_must_fit() -> None:
    agent = make_agent()
    with pytest.raises(ValueError, match=r"episode_start is \(2,\).*each of 3 observations"):
        agent.act(observations(1, 3)[0], episode_start=np.zeros(2, np.bool_))
    assert agent.state is None


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


def test_saved_agents_play_the_same(tmp_path: Path) -> None:
    agent = make_agent()
    sequence = observations(60)
    before = values(agent, sequence)
    agent.save(tmp_path / "agent")
    loaded = load_agent(str(tmp_path / "agent"))
    np.testing.assert_array_equal(values(loaded, sequence), before)
    agent.reset()
    np.testing.assert_array_equal(values(agent, sequence), before)
    assert loaded.card["stage"] == "T2"
    assert (loaded.env_id, loaded.num_actions, loaded.timesteps) == (ENV, 2, 2)
    assert loaded.pipeline == agent.pipeline
    assert load_agent(tmp_path / "agent" / "agent.json").timesteps == 2


def test_options_survive_saving(tmp_path: Path) -> None:
    make_agent().with_options(timesteps=4, carry_membrane=False).save(tmp_path / "a")
    loaded = load_agent(tmp_path / "a")
    assert loaded.timesteps == 4
    assert not loaded.policy.carry_membrane


def test_saving_over_an_agent_replaces_it(tmp_path: Path) -> None:
    make_agent(0).save(tmp_path / "a")
    second = make_agent(1)
    second.save(tmp_path / "a")
    np.testing.assert_array_equal(
        values(load_agent(tmp_path / "a"), observations(9)), values(second, observations(9))
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": {"env_id": ENV, "num_actions": 3}}, "does not fit its environment"),
        ({"environment": {"env_id": 5, "num_actions": 2}}, "does not fit its environment"),
        ({"environment": None}, "damaged"),
        ({"observation": {"kind": "vector"}}, "damaged: the observation pipeline is damaged"),
        (
            {"observation": {"kind": "vector", "raw_shape": [3], "side": 84, "grey": "cv2"}
             | {"scale": []}},
            "does not fit its observations",
        ),
    ],
)  # fmt: skip
def test_cards_that_contradict_the_network_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    make_agent().save(tmp_path / "a")
    path = tmp_path / "a" / "agent.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_agent(tmp_path / "a")


def test_agents_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        load_agent(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="the zoo has no agent 'Nope-v0/T1'"):
        load_agent("zoo:Nope-v0/T1")


def test_with_options() -> None:
    agent = make_agent()
    sequence = observations(20)
    longer = agent.with_options(timesteps=6)
    assert (longer.timesteps, agent.timesteps) == (6, 2)
    frames = torch.from_numpy(agent.pipeline.encode(sequence))[:, None]
    network = agent.policy.network
    with torch.no_grad():
        expected, _ = network(frames, network.initial_state(1), timesteps=6)
    np.testing.assert_array_equal(values(longer, sequence), expected[:, 0].numpy())
    assert longer.with_options(carry_membrane=False).timesteps == 6


def test_without_carry_there_is_no_memory() -> None:
    forgetful = make_agent().with_options(carry_membrane=False)
    sequence = observations(20)
    together = values(forgetful, sequence)
    for observation, expected in zip(sequence, together, strict=True):
        fresh = make_agent().with_options(carry_membrane=False)
        np.testing.assert_array_equal(fresh.q_values(observation), expected)
    assert not forgetful.with_options().policy.carry_membrane
    assert forgetful.with_options(carry_membrane=True).policy.carry_membrane


@pytest.mark.parametrize("timesteps", [0, -1])
def test_impossible_timesteps_are_refused(timesteps: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, not {timesteps}"):
        make_agent().with_options(timesteps=timesteps)


def test_an_ann_without_stacked_frames_takes_any_batch() -> None:
    ann = trace(mlp(2, [8], 2), (2,), pixels=False)
    agent = Agent(Policy(ann), ObservationPipeline("vector", (2,)), card())
    assert agent.state is None
    agent.act(observations(1, 3)[0])
    agent.act(observations(1, 5)[0])
    assert leaves(agent.state) == []


def test_stacked_frames_are_a_memory() -> None:
    ann = trace(mlp(6, [8], 2), (2,), pixels=False, stack=3)
    agent = Agent(Policy(ann), ObservationPipeline("vector", (2,)), card())
    sequence = observations(6)
    whole = values(agent, sequence)
    agent.reset()
    tail = values(agent, sequence[1:])
    assert not np.array_equal(tail[0], whole[1])
    np.testing.assert_array_equal(tail[2:], whole[3:])


def test_moving_to_a_device_forgets() -> None:
    agent = make_agent()
    agent.act(observations(1)[0])
    assert agent.to("cpu") is agent
    assert agent.state is None
