"""Golden traces of agents: what they saw and valued in real play, written by the torch engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.agent import Agent
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.errors import SnnRlError
from snn_rl.exchange.exportable import Exportable
from snn_rl.exchange.golden import Trace


def exportable(agent: Agent) -> Exportable:
    """What of an agent goes to another runtime."""
    policy = agent.policy
    scale = () if policy.privileged else agent.pipeline.scale
    card = {**agent.card, "observation": agent.pipeline.to_dict()}
    return Exportable(policy.network, policy.timesteps, policy.carry_membrane, scale, card)


def record(agent: Agent, frames: int) -> Trace:
    """The agent's own greedy play on evaluation seeds.

    Raises:
        UnsupportedEnvironment: the environment cannot be made.
        SnnRlError: `frames` is below 1.
    """
    if frames < 1:
        raise SnnRlError(f"a trace needs at least one frame, not {frames}")
    seen, starts = _play(agent, frames)
    network, policy = exportable(agent).one_frame(), agent.policy
    q = np.empty((frames, agent.num_actions), np.float32)
    state = policy.initial_state(1)
    for n, frame in enumerate(seen):
        # The engine itself, not what is exported.
        q[n], state = policy.q_values(_encoded(agent, frame), state, starts[n : n + 1])
    before, after = (
        {name: t.numpy() for name, t in zip(network.state_names, tensors, strict=True)}
        for tensors in (network.example(1)[1], network.kept(state))
    )
    return Trace(seen, starts, q, before, after)


def _encoded(agent: Agent, frame: NDArray[Any]) -> NDArray[Any]:
    """[1, *frame_shape] as the network reads it."""
    return frame[None] if agent.policy.privileged else agent.pipeline.encode(frame[None])


def _play(agent: Agent, frames: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Frames of the agent's games, before scaling, and which begin an episode."""
    player = agent.with_options()
    vector = trained_in(agent).make_vector(agent.env_id, 1, 0)
    seen: list[NDArray[Any]] = []
    starts = np.zeros(frames, np.bool_)
    over, episode = True, 0
    try:
        while len(seen) < frames:
            if over:
                seed: Any = evaluation_seeds(0, episode + 1)[-1:]
                observation, info = vector.reset(seed=seed)
                episode += 1
                starts[len(seen)] = True
                player.reset()
            shown = player.policy.view(_shown(agent, observation), info, agent.env_id)
            seen.append(shown[0])
            action = player.act(shown)
            observation, _, terminated, truncated, info = vector.step(action)
            over = bool(terminated[0] or truncated[0])
    finally:
        vector.close()
    return np.stack(seen), starts


def _shown(agent: Agent, observation: NDArray[Any]) -> NDArray[Any]:
    """Images grey and resized; vectors as they are, float32."""
    pipeline = agent.pipeline
    return pipeline.encode(observation) if pipeline.pixels else observation.astype(np.float32)
