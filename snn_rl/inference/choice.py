"""When the event-driven engine pays: the rule behind engine="auto"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snn_rl.inference import plan
from snn_rl.inference.plan import Plan

MANY = 16
"""Environments at a time from which on a dense network's time is arithmetic, not overhead."""
SHARE, SHARE_OF_FEW = 0.35, 1.0
"""An addition by events takes as long as 2.6 multiply-adds of a dense product of many frames, and
about as long as one where there are few (Pong's T1 to T5, 1 to 64 environments)."""
SMALL = 1_000_000
"""Below so many multiply-adds per frame a dense network's time is overhead at any batch."""
RULE = (
    "The event-driven engine is taken for networks below "
    f"{SMALL // 10**6} million multiply-adds per frame; for larger ones where its additions are at "
    f"most {SHARE_OF_FEW:g} times the dense network's, or {SHARE:g} times for {MANY} environments "
    "or more; and where the rates are unknown."
)


@dataclass(frozen=True)
class Weighing:
    """Work per frame and environment, and which engine it speaks for.

    Attributes:
        additions: that events cause; None where the rates of the spikes are unknown.
        dense: multiply-adds of a dense network: its first layer once, the others T times.
    """

    additions: float | None
    dense: float

    def pays(self, batch: int = 1) -> bool:
        """Whether the event-driven engine is expected to be faster for so many environments."""
        share = SHARE if batch >= MANY else SHARE_OF_FEW
        return self.additions is None or self.dense < SMALL or self.additions <= share * self.dense

    def __str__(self) -> str:
        known = "unknown" if self.additions is None else f"{self.additions / 1e6:.2f} million"
        return (
            f"additions per frame by events: {known}; dense: {self.dense / 1e6:.2f} million. {RULE}"
        )


def weigh(
    network: Plan,
    rates: Mapping[str, Any] | None,
    timesteps: int,
    *,
    changed: float | None = None,
) -> Weighing:
    """What a frame costs event-driven and dense.

    Args:
        rates: spikes per neuron per frame by layer, summed over the timesteps; None: unknown.
        timesteps: spiking steps per frame.
        changed: pixels per frame that differ from the frame before; None: taken for few.
    """
    additions = dense = 0.0
    layers = iter(network.layers)
    by_offset: dict[int, str] = {}
    for row in network.program:
        kind = row[plan.KIND]
        if kind == plan.LIF:
            by_offset[int(row[plan.TARGET])] = next(layers).name
        elif kind == plan.DENSE:
            dense += float(row[plan.INPUTS] * row[plan.OUTPUTS])
            additions += float(row[plan.INPUTS] * row[plan.OUTPUTS])
        elif kind in (plan.PIXELS, plan.SCATTER, plan.READOUT):
            macs = float(row[plan.OUTPUTS] * row[plan.PER_GROUP] * row[plan.KERNEL] / row[plan.ROW])
            if kind == plan.PIXELS:
                dense += macs
                additions += macs * (changed or 0.0) / float(row[plan.INPUTS])
            else:
                dense += macs * timesteps
                name = by_offset.get(int(row[plan.SOURCE]), "")
                # What is no spike (a sum of them) counts as always there.
                spikes = row[plan.SOURCE_IN] == plan.IN_SPIKES
                additions += macs * (float((rates or {}).get(name, 0.0)) if spikes else timesteps)
    return Weighing(additions if rates is not None else None, dense)
