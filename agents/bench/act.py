"""Time of one decision: spiking agents by both engines, and ANNs in the runtimes that are there.

Method: one thread; all contenders decide on the same frames, recorded from the first agent's own
play, in interleaved turns; the first turns warm up. Rows that do not compute in float32 say so.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn_rl.agents.acting import view
from snn_rl.agents.agent import Agent
from snn_rl.agents.bench import onnx_ann
from snn_rl.agents.conditions import Conditions, trained_in
from snn_rl.agents.loading import load_agent
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.core import operations
from snn_rl.core.network import Network
from snn_rl.envs import atari_game
from snn_rl.errors import EngineError, SnnRlError
from snn_rl.runs.provenance import processor, processor_flags

TURN, WARM_UP = 20, 2
"""Decisions of a turn, and turns that do not count."""
BUSY = "BeamRiderNoFrameskip-v4"
"""A game in which much moves."""
CALIBRATION = 500
"""Frames on which an int8 model's ranges are measured."""

Decide = Callable[[int], object]
"""Decides on frame number i of the recorded ones, which come in order."""


@dataclass(frozen=True)
class Contender:
    """One way to decide; `exact` says whether it gives the float32 network's values."""

    name: str
    decide: Decide
    exact: bool = True


def act_times(
    sources: Sequence[str], rivals: Sequence[str], frames: int, compiled: bool = False
) -> dict[str, Any]:
    """Microseconds per decision of every contender, and on what they were measured.

    Args:
        sources: spiking agents; the first one's play is what all see.
        rivals: ANNs, for the runtimes.
        frames: decisions of each contender.
        compiled: the ANNs run by torch.compile as well, which takes a minute and a C++ compiler.

    Raises:
        SnnRlError: there is no such agent, or one is of the wrong kind or another environment.
    """
    agents = {name: load_agent(name, "torch") for name in (*sources, *rivals)}
    _check(agents, sources)
    torch.set_num_threads(1)
    seen = record(load_agent(sources[0]), frames)
    contenders = [c for name in sources for c in _spiking(name, agents[name], seen)]
    contenders += [c for name in rivals for c in _dense(name, agents[name], seen)]
    if compiled:
        contenders += [_compiled(name, agents[name], seen) for name in rivals]
    contenders += _rare(sources[0], agents[sources[0]], seen)
    began = os.getloadavg()[0]
    times = interleaved({c.name: c.decide for c in contenders}, frames)
    return {
        "processor": processor(),
        "processor_flags": processor_flags(),
        "load": [began, os.getloadavg()[0]],
        "frames": frames,
        "changed_pixels": _changed(seen),
        "rows": [
            {
                "contender": c.name,
                "exact": c.exact,
                "median_us": float(np.median(times[c.name])),
                "p99_us": float(np.percentile(times[c.name], 99)),
            }
            for c in contenders
        ],
    }


def record(agent: Agent, count: int, seed: int = 0) -> NDArray[Any]:
    """Frames [count, *frame_shape] that an agent sees in its own greedy play."""
    vector = trained_in(agent).make_vector(agent.env_id, 1, 0)
    actor, games = agent.actor, evaluation_seeds(seed, count)
    seen: list[NDArray[Any]] = []
    try:
        for game in games:
            observation, info = vector.reset(seed=[game])  # type: ignore[arg-type]
            state, start, over = actor.initial_state(1), np.ones(1, np.bool_), False
            while not over and len(seen) < count:
                frame = view(actor, agent.pipeline.encode(observation), info, agent.env_id)
                seen.append(frame[0].copy())
                q, state = actor.q_values(frame, state, start)
                observation, _, ended, cut, info = vector.step(q.argmax(1))
                start, over = np.zeros(1, np.bool_), bool(ended[0] or cut[0])
            if len(seen) >= count:
                break
    finally:
        vector.close()
    return np.stack(seen)


def interleaved(contenders: Mapping[str, Decide], frames: int) -> dict[str, list[float]]:
    """Microseconds of every decision that counts, contenders taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn, begin in enumerate(range(0, frames, TURN)):
        for name, decide in contenders.items():
            for i in range(begin, min(begin + TURN, frames)):
                began = time.perf_counter()
                decide(i)
                taken = time.perf_counter() - began
                if turn >= WARM_UP:
                    times[name].append(1e6 * taken)
    return times


def _check(agents: Mapping[str, Agent], sources: Sequence[str]) -> None:
    first = agents[sources[0]]
    for name, agent in agents.items():
        if agent.actor.spiking != (name in sources):
            wanted = "a spiking agent" if name in sources else "an ANN"
            raise SnnRlError(f"{name} is not {wanted}")
        if agent.pipeline.frame_shape != first.pipeline.frame_shape or agent.actor.privileged:
            raise SnnRlError(f"{name} does not see the frames that {sources[0]} sees")


def _spiking(name: str, agent: Agent, seen: NDArray[Any]) -> list[Contender]:
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


def _rare(name: str, agent: Agent, seen: NDArray[Any]) -> list[Contender]:
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
    vector = Conditions(maxpool=agent.maxpool).make_vector(env_id, 1, 0)
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


def _dense(name: str, agent: Agent, seen: NDArray[Any]) -> list[Contender]:
    """An ANN in torch and, where they are installed, in ONNX Runtime and Stable-Baselines3."""
    network = agent.policy.network
    inputs = [onnx_ann.as_input(network, x) for x in _stacked(seen, network.stack)]
    found = [
        Contender(f"{name}, torch, act(frame)", _act(agent, seen)),
        Contender(f"{name}, torch frozen", _frozen(network, inputs)),
    ]
    if onnx_ann.available():
        model, key = onnx_ann.ann_model(network), network.nodes[0].name
        small = onnx_ann.quantised(
            model, key, inputs[:CALIBRATION], "avx512_vnni" not in processor_flags()
        )
        plain, int8 = onnx_ann.session(model), onnx_ann.session(small)
        found += [
            Contender(f"{name}, ONNX Runtime fp32", lambda i: plain.run(None, {key: inputs[i]})),
            Contender(
                f"{name}, ONNX Runtime int8", lambda i: int8.run(None, {key: inputs[i]}), False
            ),
        ]
    if importlib.util.find_spec("stable_baselines3") is not None:
        found.append(Contender(f"{name}'s shape, SB3 predict", _sb3(agent, network, seen)))
    return found


def _stacked(seen: NDArray[Any], stack: int) -> list[NDArray[Any]]:
    ages = range(stack - 1, -1, -1)
    return [np.concatenate([seen[max(0, i - age)] for age in ages]) for i in range(len(seen))]


def _frozen(network: Network, inputs: Sequence[NDArray[np.float32]]) -> Decide:
    tensors = [torch.from_numpy(x) for x in inputs]
    with torch.no_grad():
        traced: Any = torch.jit.trace(_module(network), tensors[0])  # type: ignore[no-untyped-call]
    return _run(torch.jit.freeze(traced), tensors)


def _compiled(name: str, agent: Agent, seen: NDArray[Any]) -> Contender:
    network = agent.policy.network
    inputs = [onnx_ann.as_input(network, x) for x in _stacked(seen, network.stack)]
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

    observed = _stacked(seen, network.stack)
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


def _changed(seen: NDArray[Any]) -> float | None:
    """Median number of pixels that differ from the frame before."""
    if seen.dtype != np.uint8 or len(seen) < 2:
        return None
    return float(np.median((seen[1:] != seen[:-1]).reshape(len(seen) - 1, -1).sum(1)))
