"""A policy that torch trains, on its grid and run by the event-driven engine where that pays: for
validation, and for roll-outs that ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from snn_rl.agents.acting import Actor, EventPolicy
from snn_rl.agents.policy import Policy
from snn_rl.core.grid import snap
from snn_rl.errors import CheckpointError, EngineError
from snn_rl.inference.choice import weigh
from snn_rl.inference.engine import EventEngine
from snn_rl.inference.lowering import lower


def on_grid(
    policy: Policy,
    batch: int,
    rates: Mapping[str, float] | None = None,
    changed: float | None = None,
) -> tuple[Policy, Actor]:
    """A copy of the policy as it would be saved, and what runs it; see `fastest`."""
    network = policy.network.clone()
    exponents = snap(network, policy.timesteps)
    copied = replace(policy, network=network)
    return copied, fastest(copied, exponents, batch, rates, changed)


def fastest(
    policy: Policy,
    exponents: Mapping[str, int],
    batch: int,
    rates: Mapping[str, float] | None = None,
    changed: float | None = None,
) -> Actor:
    """The policy event-driven, or as it is where the engine cannot run it or is not faster.

    Both give the same Q-values and spikes bit for bit. Later changes of the network are not
    followed.

    Args:
        policy: its network lies on the grid.
        exponents: of the grid, from `snn_rl.core.grid.snap`.
        batch: environments at a time.
        rates: spikes per neuron and frame by layer, if they are known.
        changed: pixels that change per frame, if known.
    """
    network = policy.network
    if not policy.spiking or network.device.type != "cpu":
        return policy
    state = network.state_dict().items()
    weights = {name.removeprefix("layers."): value.numpy() for name, value in state}
    card = {"graph": [node.to_dict() for node in network.nodes], "grid": exponents}
    try:
        plan = lower(card, weights)
        if not weigh(plan, rates, policy.timesteps, changed=changed).pays(batch):
            return policy
        runner = EventEngine(plan, policy.timesteps, policy.carry_membrane)
    except (CheckpointError, EngineError):
        return policy
    return EventPolicy(runner, policy.privileged)
