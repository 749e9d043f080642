"""Time of one decision: spiking agents by both engines, and ANNs in the runtimes that are there.

Method: one thread; all contenders decide on the same frames, recorded from the first agent's own
play, in interleaved turns; the first turns warm up. Rows that do not compute in float32 say so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn_rl.agents.acting import view
from snn_rl.agents.agent import Agent
from snn_rl.agents.bench.contenders import (
    Decide,
    ann_contenders,
    compiled_contender,
    rare_contenders,
    spiking_contenders,
)
from snn_rl.agents.bench.runtimes import CALIBRATION, ann_models, score
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.loading import load_agent
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.errors import SnnRlError
from snn_rl.runs.provenance import processor, processor_flags

TURN, WARM_UP = 20, 2
"""Decisions of a turn, and turns that do not count."""


def act_times(
    sources: Sequence[str],
    rivals: Sequence[str],
    frames: int,
    compiled: bool = False,
    scores: bool = False,
) -> dict[str, Any]:
    """Microseconds per decision of every contender, and on what they were measured.

    Args:
        sources: spiking agents; the first one's play is what all see.
        rivals: ANNs, for the runtimes.
        frames: decisions of each contender.
        compiled: the ANNs run by torch.compile as well, which takes a minute and a C++ compiler.
        scores: int8 models also play from all starts of the environment, which takes minutes.

    Raises:
        SnnRlError: there is no such agent, or one is of the wrong kind or another environment.
    """
    agents = {name: load_agent(name, "torch") for name in (*sources, *rivals)}
    _check(agents, sources)
    torch.set_num_threads(1)
    seen = record(load_agent(sources[0]), frames)
    contenders = [c for name in sources for c in spiking_contenders(name, agents[name], seen)]
    played = {name: record(agents[name], CALIBRATION) for name in rivals}
    models = {name: ann_models(agents[name].policy.network, played[name]) for name in rivals}
    contenders += [
        c for name in rivals for c in ann_contenders(name, agents[name], seen, models[name])
    ]
    if compiled:
        contenders += [compiled_contender(name, agents[name], seen) for name in rivals]
    contenders += rare_contenders(sources[0], agents[sources[0]], seen)
    began = os.getloadavg()[0]
    times = interleaved({c.name: c.decide for c in contenders}, frames)
    return {
        "processor": processor(),
        "processor_flags": processor_flags(),
        "load": [began, os.getloadavg()[0]],
        "frames": frames,
        "changed_pixels": _changed(seen),
        "scores": {
            f"{name}, {runtime}": score(agents[name], model)
            for name in rivals
            for runtime, model in models[name].items()
            if scores and "int8" in runtime
        },
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


def _changed(seen: NDArray[Any]) -> float | None:
    """Median number of pixels that differ from the frame before."""
    if seen.dtype != np.uint8 or len(seen) < 2:
        return None
    return float(np.median((seen[1:] != seen[:-1]).reshape(len(seen) - 1, -1).sum(1)))
