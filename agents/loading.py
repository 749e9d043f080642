"""Loads saved agents: from a folder, or those that come with the package."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from snn_rl.agents.acting import Actor, EventPolicy
from snn_rl.agents.agent import Agent
from snn_rl.agents.automatic import Automatic
from snn_rl.errors import CheckpointError, EngineError, SnnRlError
from snn_rl.inference import reader
from snn_rl.inference.choice import MANY, RULE, weigh
from snn_rl.inference.engine import EventEngine
from snn_rl.inference.lowering import lower
from snn_rl.inference.observation import ObservationPipeline, pipeline_from_dict
from snn_rl.runs.shipped import Zoo

if TYPE_CHECKING:
    from snn_rl.core.network import Network

AGENTS = Zoo.of("snn_rl.agents", "agent")
log = logging.getLogger(__name__)
Wanted = Literal["auto", "event", "torch"]


def load_agent(source: str | Path, engine: Wanted = "auto") -> Agent:
    """Agent from a folder, or from the shipped ones as "zoo:<env>/<stage>".

    Nothing in the files is executed.

    Args:
        engine: "event" runs a spiking network event-driven, on the CPU and without torch; "torch"
            runs any; "auto" takes the first where it can run the network and is expected to pay
            (the rule: snn_rl.inference.choice), by the rates in the agent's card, or by those of
            its first 256 frames where it tells none. Both give the same Q-values bit for bit.

    Raises:
        CheckpointError: one sentence on what is missing or damaged.
        EngineError: the engine that was asked for cannot run this network.
    """
    checked(engine)
    folder = find_agent(source)
    if engine != "torch":
        try:
            return _event_driven(folder, engine)
        except (EngineError, CheckpointError):  # of a damaged folder, torch's loader says more
            if engine == "event":
                raise
    return _in_torch(folder)


def checked(engine: str) -> Wanted:
    """The engine of that name. Raises SnnRlError if there is none."""
    for known in get_args(Wanted):
        if engine == known:
            return cast(Wanted, known)
    raise SnnRlError(f"engine is 'auto', 'event' or 'torch', not {engine!r}")


def _event_driven(folder: Path, engine: Wanted) -> Agent:
    card, weights = reader.read(folder)
    pipeline, carry, privileged = _described(folder, card)
    try:
        plan, timesteps = lower(card, weights), int(card["timesteps"])
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error
    read = (plan.pixels, plan.input_shape)
    _check_fit(folder, card, pipeline, privileged, read, plan.outputs)
    event = EventPolicy(EventEngine(plan, timesteps, carry), privileged)

    @cache
    def load_network() -> Network:
        from snn_rl.runs import checkpoint

        return checkpoint.load(folder)[0]

    auto = engine == "auto"
    actor = _weighed(folder, event, load_network, card) if auto else event
    return Agent(actor, pipeline, card, load_network=load_network, falls_back=auto)


def _weighed(
    folder: Path,
    event: EventPolicy,
    load_network: Callable[[], Network],
    card: Mapping[str, Any],
) -> Actor:
    """What engine="auto" runs: the event-driven engine alone where it always pays.

    Raises:
        EngineError: it never does.
    """
    rates = _rates(card)
    if rates is None:
        log.info("%s: its rates are unknown and measured in play. %s", folder, RULE)
        return Automatic(event, load_network)
    weighed = weigh(event.runner.plan, rates, event.timesteps, changed=_changed(card))
    log.info("%s: %s", folder, weighed)
    pays = {weighed.pays(batch) for batch in (1, MANY)}
    if pays == {False}:
        raise EngineError("its spikes are so many that torch is expected to be faster")
    return event if pays == {True} else Automatic(event, load_network, weighed)


def _rates(card: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Spikes per neuron and frame by layer, if the card tells them."""
    results = card.get("results")
    rates = results.get("spike_rates") if isinstance(results, Mapping) else None
    if not isinstance(rates, Mapping):
        return None
    return {name: rate for name, rate in rates.items() if type(rate) is float and 0 <= rate < 1e9}


def _changed(card: Mapping[str, Any]) -> float | None:
    """Pixels that change per frame, if the card tells it."""
    results = card.get("results")
    changed = results.get("changed_pixels") if isinstance(results, Mapping) else None
    return float(changed) if isinstance(changed, int | float) else None


def _in_torch(folder: Path) -> Agent:
    from snn_rl.agents.policy import Policy as TorchPolicy
    from snn_rl.runs import checkpoint

    network, card = checkpoint.load(folder)
    pipeline, carry, privileged = _described(folder, card)
    (outputs,) = network.shapes[network.nodes[-1].name] or (0,)
    read = (network.pixels, network.input_shape)
    _check_fit(folder, card, pipeline, privileged, read, outputs)
    policy = TorchPolicy(network, int(card["timesteps"]), carry, privileged)
    return Agent(policy, pipeline, card)


def _described(folder: Path, card: Mapping[str, Any]) -> tuple[ObservationPipeline, bool, bool]:
    """Pipeline, carry of membranes and privilege from a card."""
    try:
        pipeline = pipeline_from_dict(card["observation"])
        carry, privileged = card["carry_membrane"], card["privileged"]
        if not (type(carry) is type(privileged) is bool):
            raise ValueError("carry_membrane and privileged must be true or false")
        return pipeline, carry, privileged
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is damaged: its card lacks {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error


def _check_fit(
    folder: Path,
    card: Mapping[str, Any],
    pipeline: ObservationPipeline,
    privileged: bool,
    read: tuple[bool, tuple[int, ...]],
    outputs: int,
) -> None:
    """Raise CheckpointError unless a network fits its card; it reads pixels or not, of a shape."""
    try:
        environment = card["environment"]
        actions, named = environment["num_actions"], isinstance(environment["env_id"], str)
        named &= isinstance(environment.get("env_kwargs", {}), dict)
        named &= type(actions) is int
        named &= all(type(environment.get(k, False)) is bool for k in ("maxpool", "fire_reset"))
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is damaged: its card lacks {error}") from error
    if not named or actions < 1 or outputs != actions:
        raise CheckpointError(f"{folder} is damaged: its network does not fit its environment")
    shown = (pipeline.pixels, pipeline.frame_shape)
    if read[0] if privileged else read != shown:
        raise CheckpointError(f"{folder} is damaged: its network does not fit its observations")


def zoo() -> list[str]:
    """Names of the shipped agents, e.g. "CartPole-v1/T1"."""
    return AGENTS.names()


def find_agent(source: str | Path) -> Path:
    """Folder of an agent by path or as "zoo:<env>/<stage>".

    Raises:
        CheckpointError: there is none; names what there is.
    """
    return AGENTS.find(source)
