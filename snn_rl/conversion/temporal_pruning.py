"""Temporal pruning (Chowdhury, Rathi and Roy 2022, Algorithm 1), for any task.

Start from a spiking network at N timesteps; train; copy its parameters; reduce the timesteps;
train again; until one timestep is left. This module walks the schedule. Training belongs to the
caller, be it reinforcement learning or images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from snn_rl.core.network import Network
from snn_rl.errors import SnnRlError

log = logging.getLogger(__name__)

VANISHING_RATE = 1e-3
"""Spikes per neuron per frame below which a layer passes on next to nothing."""


def schedule(start: int, until: int = 1, *, step: int = 1, skip: Sequence[int] = ()) -> list[int]:
    """Timesteps of the stages, e.g. 5, 4, 3, 2, 1; always ends at `until`.

    Args:
        start, until: first and last number of timesteps, start >= until >= 1.
        step: how many timesteps each stage removes.
        skip: stages to leave out, e.g. (4, 2) for 5, 3, 1; not the first or last one.

    Raises:
        SnnRlError: values that make no schedule.
    """
    if not start >= until >= 1 or step < 1:
        raise SnnRlError(
            f"temporal pruning runs from timesteps >= until >= 1 with step >= 1, "
            f"not from {start} to {until} with step {step}"
        )
    stages = [*range(start, until, -step), until]
    wrong = [t for t in skip if t not in stages[1:-1]]
    if wrong:
        raise SnnRlError(f"cannot skip {wrong}: the stages between are {stages[1:-1]}")
    return [t for t in stages if t not in skip]


def even_split(budget: int, stages: int) -> list[int]:
    """Divide a fixed training budget evenly; earlier stages get the remainder."""
    if stages < 1 or budget < stages:
        raise SnnRlError(f"a budget of {budget} cannot be split over {stages} stages")
    share, rest = divmod(budget, stages)
    return [share + (index < rest) for index in range(stages)]


@torch.no_grad()
def rescale_leaks(network: Network, old: int, new: int) -> None:
    """Keep a frame's memory when T changes: leak <- leak ** (old / new), in place."""
    for layer in network.spiking.values():
        layer.leak.pow_(old / new)


@dataclass(frozen=True)
class Start:
    """What the training at `timesteps` starts from."""

    timesteps: int
    network: Network
    """to be trained in place or replaced"""
    spike_rates: Mapping[str, float]
    """Spikes per neuron per frame, summed over the timesteps, by layer, before it is trained."""


@dataclass(frozen=True)
class Stage:
    """A trained stage of the continuum."""

    timesteps: int
    network: Network
    spike_rates: Mapping[str, float] = field(default_factory=dict)
    """As in `Start`, after training; empty where nobody measured them."""


def reduce_timesteps(network: Network, timesteps: int, *, rescale_leak: bool = False) -> Network:
    """The network that training at `timesteps` starts from: a copy of the one trained before.

    Args:
        network: spiking; `network.timesteps` is T that it was converted for or trained at.
        rescale_leak: keep the memory per frame when T drops (otherwise leaks stay as they are).
    """
    start = network.clone()
    start.timesteps = timesteps
    if rescale_leak and network.timesteps not in (None, timesteps):
        rescale_leaks(start, network.timesteps, timesteps)
    return start


def temporal_pruning(
    network: Network,
    timesteps: Sequence[int],
    train: Callable[[Start], Network],
    measure_rates: Callable[[Network, int], Mapping[str, float]],
    *,
    rescale_leak: bool = False,
) -> Iterator[Stage]:
    """Yield the trained stages from timesteps[0] down to timesteps[-1].

    Args:
        network: spiking network to start from, converted or of an earlier stage; it is not changed.
        timesteps: from `schedule`.
        train: trains a network at T timesteps, in its own way and as long as it wants, and
            returns the network to keep.
        measure_rates: spike rates of a network at T, on data; watched before and after each
            training for layers that fall silent (the failure that gradual reduction avoids).
        rescale_leak: keep the memory per frame when T drops.
    """
    for t in timesteps:
        start = reduce_timesteps(network, t, rescale_leak=rescale_leak)
        before = measure_rates(start, t)
        warn_if_vanishing(before, f"before training at T={t}")
        network = train(Start(t, start, before))
        network.timesteps = t
        after = measure_rates(network, t)
        warn_if_vanishing(after, f"after training at T={t}")
        yield Stage(t, network, after)


def warn_if_vanishing(rates: Mapping[str, float], when: str) -> str | None:
    """Warn and return the name of the first layer whose spike rate vanishes, if any."""
    for layer, rate in rates.items():
        if rate < VANISHING_RATE:
            log.warning(
                "spikes vanish in layer %s %s (%.2g spikes per neuron per frame): reduce the "
                "timesteps in smaller steps or lower its threshold",
                layer,
                when,
                rate,
            )
            return layer
    return None
