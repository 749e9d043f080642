"""When the event-driven engine pays: the rule behind engine="auto"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snn_rl.inference import plan
from snn_rl.inference.plan import Plan

DENSE_SHARE = 0.2
"""Additions by events cost about five times what those of a dense product do."""
SMALL = 1_000_000
"""Below so many multiply-adds per frame a dense network's time is overhead, not arithmetic."""


def pays(network: Plan, rates: Mapping[str, Any] | None, timesteps: int) -> bool:
    """Whether the engine is expected to be faster than dense execution.

    It is where the network is small, or where its spikes make fewer additions than a fifth of the
    dense multiply-adds, T times the network's. Layers that do not read spikes are left out: they
    run once per frame, the first on changed pixels alone. Without known rates it is taken to pay.

    Args:
        rates: spikes per neuron per frame by layer, summed over the timesteps.
        timesteps: spiking steps per frame.
    """
    additions = dense = 0.0
    fired = {layer.name: 0.0 for layer in network.layers}
    layers = iter(network.layers)
    by_offset: dict[int, str] = {}
    for row in network.program:
        if row[plan.KIND] == plan.LIF:
            by_offset[int(row[plan.TARGET])] = next(layers).name
        elif row[plan.SOURCE_IN] == plan.IN_SPIKES and row[plan.KIND] != plan.SCALE:
            macs = row[plan.OUTPUTS] * row[plan.PER_GROUP] * row[plan.KERNEL] / row[plan.ROW]
            name = by_offset[int(row[plan.SOURCE])]
            fired[name] = float((rates or {}).get(name, 0.0))
            additions += float(macs) * fired[name]
            dense += float(macs) * timesteps
    return dense < SMALL or additions <= DENSE_SHARE * dense
