"""Who decides in `snn-rl benchmark act`: agents by both engines, ANNs in the runtimes there are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn_rl.agents.agent import Agent
from snn_rl.agents.bench import onnx_ann
from snn_rl.agents.bench.runtimes import Model, stacked
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.loading import load_agent
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.core import operations
from snn_rl.core.network import Network
from snn_rl.envs import atari_game
from snn_rl.errors import EngineError, SnnRlError

BUSY = "BeamRiderNoFrameskip-v4"
"""A game in which much moves."""

Decide = Callable[[int], object]
"""Decides on frame number i of the recorded ones, which come in order."""


@dataclass(frozen=True)
class Contender:
    """One way to decide; `exact` says whether it gives the float32 network's values."""

    name: str
    decide: Decide
    exact: bool = True


def spiking_contenders(name: str, agent: Agent, seen: NDArray[Any]) -> list[Contender]:
    """A spiking agent in torch, and in the event-driven engine where that runs it.

    Args:
        seen: frames [frames, *input_shape] of its play.
    """
    found = [Contender(f"{name}, torch, act(frame)", _act(agent, seen))]
    try:
        event = load_agent(name, "event")
    except EngineError:
        return found
    actor, state = event.actor, [event.actor.initial_state(1)]
    start = np.zeros(1, np.bool_)

    def step(i: int) -> object:
        q, state[0] = actor.q_values(seen[i : i + 1], state[0], start)
        return q

    return [
        Contender(f"{name}, event, step", step),
        Contender(f"{name}, event, act(frame)", _act(load_agent(name, "event"), seen)),
        *found,
    ]


def _act(agent: Agent, seen: NDArray[Any]) -> Decide:
    return lambda i: agent.act(seen[i])


def rare_contenders(name: str, agent: Agent, seen: NDArray[Any]) -> list[Contender]:
    """What the event-driven engine meets less often, or likes least.

    First frames follow a `reset`. Screens are the recorded frames, enlarged to what the environment
    returns. In the busy game many pixels change from frame to frame, in the last row all of them.
    """
    try:
        load_agent(name, "event")
    except EngineError:
        return []
    first = load_agent(name, "event")

    def begin(i: int) -> object:
        first.reset()
        return first.act(seen[i])

    found = [Contender(f"{name}, event, act(first frame)", begin)]
    if not agent.pipeline.pixels:
        return found
    noise = np.stack([seen[0], ~seen[0]])[np.arange(len(seen)) % 2]
    shown = {"screen": _screens(agent, seen)}
    if atari_game(agent.env_id) is not None:
        shown[f"frame of {BUSY}"] = _random_play(agent, BUSY, len(seen))
    shown["all pixels changed"] = noise
    for what, frames in shown.items():
        found.append(
            Contender(f"{name}, event, act({what})", _act(load_agent(name, "event"), frames))
        )
    return found


def _screens(agent: Agent, seen: NDArray[Any]) -> NDArray[Any]:
    import cv2

    height, width = agent.pipeline.raw_shape[:2]
    grey = [cv2.resize(x[0], (width, height), interpolation=cv2.INTER_NEAREST) for x in seen]
    if len(agent.pipeline.raw_shape) == 2:
        return np.stack(grey)
    return np.stack(grey)[..., None].repeat(agent.pipeline.raw_shape[2], -1)


def _random_play(agent: Agent, env_id: str, count: int) -> NDArray[Any]:
    """Frames [count, *frame_shape] of a game that is played at random."""
    vector = trained_in(agent).make_vector(env_id, 1, 0)
    generator, actions = np.random.default_rng(0), vector.action_space.nvec  # type: ignore[attr-defined]
    try:
        observation, _ = vector.reset(seed=evaluation_seeds(0, 1))  # type: ignore[arg-type]
        seen = []
        for _ in range(count):
            seen.append(agent.pipeline.encode(observation)[0].copy())
            observation = vector.step(generator.integers(actions))[0]
    finally:
        vector.close()
    return np.stack(seen)


def ann_contenders(
    name: str, agent: Agent, seen: NDArray[Any], models: Mapping[str, Model]
) -> list[Contender]:
    """An ANN in torch, in the runtimes, and in Stable-Baselines3 where it is installed."""
    network = agent.policy.network
    inputs = [onnx_ann.as_input(network, x) for x in stacked(seen, network.stack)]
    found = [
        Contender(f"{name}, torch, act(frame)", _act(agent, seen)),
        Contender(f"{name}, torch frozen", _frozen(network, inputs)),
    ]
    for runtime, model in models.items():
        exact = runtime.endswith("fp32")
        found.append(Contender(f"{name}, {runtime}", _model(model, inputs), exact))
    if importlib.util.find_spec("stable_baselines3") is not None:
        found.append(Contender(f"{name}'s shape, SB3 predict", _sb3(agent, network, seen)))
    return found


def _model(model: Model, inputs: Sequence[NDArray[np.float32]]) -> Decide:
    return lambda i: model(inputs[i])


def _frozen(network: Network, inputs: Sequence[NDArray[np.float32]]) -> Decide:
    tensors = [torch.from_numpy(x) for x in inputs]
    with torch.no_grad():
        traced: Any = torch.jit.trace(_module(network), tensors[0])  # type: ignore[no-untyped-call]
    return _run(torch.jit.freeze(traced), tensors)


def compiled_contender(name: str, agent: Agent, seen: NDArray[Any]) -> Contender:
    """An ANN behind torch.compile; arguments as of `spiking_contenders`.

    Raises:
        SnnRlError: it cannot be compiled here.
    """
    network = agent.policy.network
    inputs = [onnx_ann.as_input(network, x) for x in stacked(seen, network.stack)]
    decide = _run(torch.compile(_module(network)), [torch.from_numpy(x) for x in inputs])
    try:
        decide(0)
    except Exception as error:  # whatever the compiler of this machine says
        raise SnnRlError(f"torch cannot compile {name} here: {str(error)[:200]}") from error
    return Contender(f"{name}, torch compiled", decide)


def _module(network: Network) -> torch.nn.Module:
    """An ANN's layers alone, from stacked floats to Q-values."""
    layers = []
    for node in network.nodes[1:]:
        plain = {operations.ReLU: torch.nn.ReLU, operations.Flatten: torch.nn.Flatten}
        module = plain.get(type(node.operation))
        layers.append(module() if module else network.layers[node.name])
    return torch.nn.Sequential(*layers).eval()


def _run(module: Any, tensors: Sequence[torch.Tensor]) -> Decide:
    def decide(i: int) -> object:
        with torch.no_grad():
            return module(tensors[i])

    return decide


def _sb3(agent: Agent, network: Network, seen: NDArray[Any]) -> Decide:
    """Stable-Baselines3's DQN policy of the network's shape, untrained."""
    from gymnasium.spaces import Box, Discrete
    from stable_baselines3.dqn.policies import CnnPolicy, MlpPolicy

    observed = stacked(seen, network.stack)
    shape, actions = observed[0].shape, Discrete(agent.num_actions)
    rate = 1e-4
    if agent.pipeline.pixels:
        policy: Any = CnnPolicy(Box(0, 255, shape, np.uint8), actions, lambda _: rate)
    else:
        linear = [n.operation for n in network.nodes if isinstance(n.operation, operations.Linear)]
        widths = [layer.out_features for layer in linear[:-1]]
        policy = MlpPolicy(
            Box(-np.inf, np.inf, shape, np.float32), actions, lambda _: rate, net_arch=widths
        )
    return lambda i: policy.predict(observed[i], deterministic=True)
