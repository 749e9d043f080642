"""Whether both engines give the same Q-values and membranes on frames of real play, bit for bit.

    python benchmarks/engines.py [--frames 10000] [--agent zoo:ENV/STAGE ...] [--flush-denormals]

Every agent plays in environments side by side until it has seen the frames; torch chooses the
actions, both engines see every frame from the same states. Prints one line per agent; exit status 0
if nothing differed. With --flush-denormals the processor rounds denormal numbers to zero in both
engines, and what the event-driven one gives without that is compared with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snn_rl.agents.acting import Actor, view
from snn_rl.agents.agent import Agent
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.loading import load_agent, zoo
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.core.state import leaves

ENVIRONMENTS = 8


@dataclass
class Outcome:
    """What a comparison found; differing frames and membranes are counts, seconds sums.

    Attributes:
        flushed_q, flushed_membranes: other than where denormal numbers are kept.
        largest_flushed: membrane among those, where they are kept.
    """

    frames: int = 0
    differing_q: int = 0
    differing_membranes: int = 0
    denormal_membranes: int = 0
    flushed_q: int = 0
    flushed_membranes: int = 0
    largest_flushed: float = 0.0
    seconds_event: float = 0.0
    seconds_torch: float = 0.0

    @property
    def equal(self) -> bool:
        """Nothing differed."""
        return self.differing_q == self.differing_membranes == 0


def compare(source: str, frames: int, flush: bool = False) -> Outcome:
    """Play an agent for at least so many frames in both engines; see the top for `flush`."""
    agent, other = load_agent(source, "torch"), load_agent(source, "event")
    vector = trained_in(agent).make_vector(agent.env_id, ENVIRONMENTS, 0)
    outcome = Outcome()
    try:
        seeds = evaluation_seeds(0, ENVIRONMENTS)
        observation, info = vector.reset(seed=seeds)  # type: ignore[arg-type]
        state: Any = agent.actor.initial_state(ENVIRONMENTS)
        mine: Any = other.actor.initial_state(ENVIRONMENTS)
        kept = mine
        start = np.ones(ENVIRONMENTS, np.bool_)
        while outcome.frames < frames:
            x = view(agent.actor, agent.pipeline.encode(observation), info, agent.env_id)
            q, state, taken = _timed(agent.actor, x, state, start)
            p, mine, spent = _timed(other.actor, x, mine, start)
            outcome.seconds_torch += taken
            outcome.seconds_event += spent
            _count(outcome, agent, other, (q, state), (p, mine))
            if flush:
                torch.set_flush_denormal(False)
                o, kept = other.actor.q_values(x, kept, start)
                _count_flushed(outcome, other, (p, mine), (o, kept))
                torch.set_flush_denormal(True)
            observation, _, ended, cut, info = vector.step(q.argmax(1))
            # The step after an episode's end resets that environment.
            start = ended | cut
    finally:
        vector.close()
    return outcome


def _timed(actor: Actor, x: Any, state: Any, start: Any) -> tuple[Any, Any, float]:
    began = time.perf_counter()
    q, state = actor.q_values(x, state, start)
    return q, state, time.perf_counter() - began


def _count(outcome: Outcome, agent: Agent, other: Agent, torchs: Any, events: Any) -> None:
    outcome.frames += ENVIRONMENTS
    outcome.differing_q += int((torchs[0] != events[0]).any(1).sum())
    theirs, mine = agent.actor.to_arrays(torchs[1]), other.actor.to_arrays(events[1])
    smallest = np.finfo(np.float32).tiny
    for a, b in zip(leaves(theirs), leaves(mine), strict=True):
        outcome.differing_membranes += int((a != b).sum())
        if a.dtype == np.float32:
            outcome.denormal_membranes += int(((a != 0) & (np.abs(a) < smallest)).sum())


def _count_flushed(outcome: Outcome, agent: Agent, flushed: Any, kept: Any) -> None:
    outcome.flushed_q += int((flushed[0] != kept[0]).any(1).sum())
    theirs, mine = (agent.actor.to_arrays(state) for _, state in (flushed, kept))
    for a, b in zip(leaves(theirs), leaves(mine), strict=True):
        if (differ := a != b).any():
            outcome.flushed_membranes += int(differ.sum())
            largest = float(np.abs(b[differ]).max())
            outcome.largest_flushed = max(outcome.largest_flushed, largest)


def main() -> int:
    """Compare and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--agent", action="append")
    parser.add_argument("--flush-denormals", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.flush_denormals and not torch.set_flush_denormal(True):
        sys.exit("this processor cannot flush denormal numbers")
    sources = options.agent or [
        f"zoo:{name}" for name in zoo() if load_agent(f"zoo:{name}", "torch").actor.spiking
    ]
    all_equal = True
    for source in sources:
        found = compare(source, options.frames, options.flush_denormals)
        all_equal &= found.equal
        rates = [found.frames / s for s in (found.seconds_event, found.seconds_torch)]
        print(
            f"{source}: {found.frames} frames, Q-values of {found.differing_q} differ, "
            f"{found.differing_membranes} membranes differ ({found.denormal_membranes} denormal); "
            f"frames/s event {rates[0]:,.0f}, torch {rates[1]:,.0f}",
            flush=True,
        )
        if options.flush_denormals:
            print(
                f"    beside denormals kept: Q-values of {found.flushed_q} differ, "
                f"{found.flushed_membranes} membranes, the largest {found.largest_flushed:.2g}",
                flush=True,
            )
    return 0 if all_equal else 1


if __name__ == "__main__":
    sys.exit(main())
