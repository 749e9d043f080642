"""The agent as a simulator uses it: act, memory, branching, saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_agents import ENV, SCALE, card, make_agent, observations, values

from snn_rl.agents.agent import Agent
from snn_rl.agents.loading import load_agent
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import mlp
from snn_rl.conversion.tracing import trace
from snn_rl.core.state import leaves
from snn_rl.envs.observation import ObservationPipeline
from snn_rl.errors import CheckpointError


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
