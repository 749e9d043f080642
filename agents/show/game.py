"""Plays an agent's games frame by frame and keeps what a person wants to see of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.acting import Actor, view
from snn_rl.agents.agent import Agent
from snn_rl.agents.conditions import STANDARD, Conditions
from snn_rl.agents.policy import Policy
from snn_rl.core.network import Network
from snn_rl.core.operations import ReLU
from snn_rl.envs.pictures import pictures_of

GLOW_DECAY = 0.8
"""What is left of a neuron's afterglow one frame later."""
SCALE_DECAY = 0.97
"""What is left one frame later of the largest value, against which others are measured."""


@dataclass(frozen=True)
class LayerActivity:
    """What a hidden layer did at one frame.

    Attributes:
        name: of the spiking or ReLU layer.
        activity: float32 [*layer's shape] from 0 to 1: spikes / T, or ReLU outputs / the largest
            of late.
        glow: the activity with an afterglow of the frames before, same shape and range.
        rate: spikes per neuron at this frame (0 to T); of an ANN, the share of active neurons.
    """

    name: str
    activity: NDArray[np.float32]
    glow: NDArray[np.float32]
    rate: float


@dataclass(frozen=True)
class Player:
    """Who plays what.

    Attributes:
        env_id: the game.
        timesteps, carry_membrane: how the agent is run.
        spiking: False for an ANN.
        actions: their names.
    """

    env_id: str
    timesteps: int
    carry_membrane: bool
    spiking: bool
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Moment:
    """One decision of an agent, with all that is shown of it.

    Attributes:
        player: who plays what.
        picture: the game as RGB [height, width, 3]; None if it draws nothing.
        seen: the frame that the agent reads: uint8 [1, side, side] or float32 [features].
        layers: the hidden layers, in order of execution.
        q: Q-values [actions]; `q_scale` is the largest distance from their mean of late, ≥ 0.
        action: the one chosen.
        score: rewards up to the picture, as the game gives them.
        frame: decisions taken before this one, in this episode.
        over: the episode is over: the picture, score and frame are its last, the rest is that of
            the last decision.
    """

    player: Player
    picture: NDArray[np.uint8] | None
    seen: NDArray[Any]
    layers: tuple[LayerActivity, ...]
    q: NDArray[np.float32]
    q_scale: float
    action: int
    score: float
    frame: int
    over: bool = False


class Show:
    """An agent in the environment that `evaluate` would play it in; `close` it at the end.

    Attributes:
        pace: decisions per second at the game's own speed.
    """

    def __init__(self, agent: Agent, conditions: Conditions = STANDARD) -> None:
        """Make the environment.

        Raises:
            UnsupportedEnvironment: the environment cannot be made.
        """
        actor, env_id = agent.actor, agent.env_id
        self._agent = agent
        self._vector = conditions.make_vector(env_id, 1, 0)
        self._pictures = pictures_of(
            self._vector, env_id, agent.pipeline.raw_shape, conditions.sticky
        )
        self.pace = self._pictures.pace
        self._player = Player(
            env_id,
            actor.timesteps,
            actor.carry_membrane,
            actor.spiking,
            self._pictures.actions,
        )

    def play(self, seeds: Sequence[int]) -> Iterator[Moment]:
        """Greedy episodes, one per seed: the very games that `evaluate` plays on these seeds.

        Yields a moment per decision, and one more at the end of each episode.

        Raises:
            SnnRlError: the agent reads info["full_state"], which the environment does not report.
            UnsupportedEnvironment: a package that draws the environment is missing.
        """
        for seed in seeds:
            yield from self._episode(seed)

    def _episode(self, seed: int) -> Iterator[Moment]:
        agent, actor, vector = self._agent, self._agent.actor, self._vector
        watch = _Watch(agent)
        observation, info = vector.reset(seed=[seed])  # type: ignore[arg-type]
        picture = self._pictures.begin(seed)
        state, start = actor.initial_state(1), np.ones(1, np.bool_)
        score, scale, frame, over = 0.0, 0.0, 0, False
        while not over:
            frames = view(actor, agent.pipeline.encode(observation), info, agent.env_id)
            q, state, layers = watch.q_values(frames, state, start)
            action = int(q.argmax())
            scale = max(SCALE_DECAY * scale, float(np.abs(q - q.mean()).max()))
            moment = Moment(
                self._player, picture, frames[0], layers, q, scale, action, score, frame
            )
            yield moment
            observation, reward, terminated, truncated, info = vector.step(np.array([action]))
            picture = self._pictures.follow(action)
            score, frame = score + float(reward[0]), frame + 1
            over = bool(terminated[0] or truncated[0])
            start = np.zeros(1, np.bool_)
        yield replace(moment, picture=picture, score=score, frame=frame, over=True)

    def close(self) -> None:
        """Free the environment."""
        self._vector.close()
        self._pictures.close()


class _Watch:
    """Runs an agent and keeps what its hidden layers did; afterglow lasts over one episode."""

    def __init__(self, agent: Agent) -> None:
        self._actor: Actor = agent.actor
        self._spiking = agent.actor.spiking
        self._probes = {} if self._spiking else _relu_probes(agent.policy)
        self._glow: dict[str, NDArray[np.float32]] = {}
        self._peak: dict[str, float] = {}

    def q_values(
        self, frames: NDArray[Any], state: Any, start: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], Any, tuple[LayerActivity, ...]]:
        """Q-values [actions] of one environment, its next state, and the layers' activity."""
        counts: dict[str, NDArray[np.float32]] = {}

        def observe(name: str, spikes: Any) -> None:
            counts[name] = spikes[0, :, 0].sum(0).cpu().numpy()

        q, next_state = self._actor.q_values(frames, state, start, observe)
        for name, probe in self._probes.items():
            counts[name] = probe.q_values(frames, state, start)[0][0]
        layers = tuple(self._layer(name, values) for name, values in counts.items())
        return q[0], next_state, layers

    def _layer(self, name: str, values: NDArray[np.float32]) -> LayerActivity:
        activity: NDArray[np.float32]
        if self._spiking:
            activity, rate = values / np.float32(self._actor.timesteps), float(values.mean())
        else:
            peak = max(SCALE_DECAY * self._peak.get(name, 0.0), float(values.max()))
            activity, rate = values / np.float32(peak or 1.0), float((values > 0).mean())
            self._peak[name] = peak
        faded = self._glow.get(name, np.zeros_like(activity)) * np.float32(GLOW_DECAY)
        self._glow[name] = np.maximum(activity, faded)
        return LayerActivity(name, activity, self._glow[name], rate)


def _relu_probes(policy: Policy) -> dict[str, Policy]:
    """The policy cut off after each of its ReLU layers, which is then what it returns."""
    probes = {}
    weights = policy.network.state_dict()
    for index, node in enumerate(policy.network.nodes):
        if isinstance(node.operation, ReLU):
            probe = Network(policy.network.nodes[: index + 1])
            probe.load_state_dict({key: weights[key] for key in probe.state_dict()})
            probe.to(policy.network.device).eval()
            probes[node.name] = replace(policy, network=probe)
    return probes
