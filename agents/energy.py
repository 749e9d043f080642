"""Energy of agents at the spike rates and activation densities of real play."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snn_rl.agents.agent import Agent
from snn_rl.agents.calibration import play_frames
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.dqn.rollout import Exploration
from snn_rl.agents.dqn.validation import Task
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.energy.accounting import energy_report
from snn_rl.energy.counts import activation_densities
from snn_rl.energy.report import EnergyReport
from snn_rl.energy.traffic import Traffic, mean_traffic, measure_traffic
from snn_rl.energy.work import Work, ann_work, spiking_work

GAMES, FRAMES = 8, 256
"""Play on which activations and touched weights are counted."""


def measure_energies(agents: Mapping[str, Agent], trials: int) -> dict[str, EnergyReport]:
    """Energy per frame of agents at the spike rates of `trials` greedy games.

    An ANN among them, one that sees what the others see, gives the densities of the ANN that skips
    zeros.
    """
    spiking = [agent for agent in agents.values() if agent.policy.network.spiking]
    anns = [agent for agent in agents.values() if not agent.policy.network.spiking]
    like = {_input(agent) for agent in spiking} or {_input(agent) for agent in anns[:1]}
    ann = next((ann for ann in anns if {_input(ann)} == like), None)
    densities = measure_densities(ann) if ann else None
    return {
        name: measure_energy(agent, trials, densities if {_input(agent)} == like else None)
        for name, agent in agents.items()
    }


def measure_energy(
    agent: Agent, trials: int, densities: Mapping[str, float] | None = None
) -> EnergyReport:
    """Energy per frame at the spike rates of `trials` greedy games.

    Args:
        densities: of the ANN's activations, for the ANN that skips zeros.
    """
    policy = agent.policy
    seeds, world = (
        evaluation_seeds(0, trials),
        trained_in(agent),
    )
    played = evaluate(agent.actor, agent.env_id, agent.pipeline, seeds, world)
    return energy_report(
        policy.network,
        policy.timesteps,
        played.neuron_rates,
        carry_membrane=policy.carry_membrane,
        densities=densities,
    )


def measure_densities(ann: Agent) -> dict[str, float]:
    """Share of non-zero activations of an ANN in its own greedy play, by ReLU."""
    counts = [activation_densities(ann.policy.network, game) for game in _games(ann)]
    return {name: sum(c[name] for c in counts) / len(counts) for name in counts[0]}


def measure_work(
    agents: Mapping[str, Agent], reports: Mapping[str, EnergyReport]
) -> dict[str, list[Work]]:
    """Rows of the ANN (named "ANN") and of every spiking agent: what each way to run it takes.

    Args:
        reports: of the agents, from `measure_energies`. The agents' own greedy play tells which
            weights are touched; an ANN that sees what the spiking ones see skips its zeros.
    """
    spiking = {name: agent for name, agent in agents.items() if reports[name].neurons}
    like = {_input(agent) for agent in spiking.values()}
    ann = next(
        (a for name, a in agents.items() if name not in spiking and {_input(a)} == like), None
    )
    first = reports[next(iter(spiking or agents))]
    work = {"ANN": ann_work(first, measure_traffic_of(ann) if ann else None)}
    for name, agent in spiking.items():
        work[name] = spiking_work(reports[name], measure_traffic_of(agent))
    return work


def measure_traffic_of(agent: Agent) -> Traffic:
    """Which weights an agent's own greedy play touches."""
    policy = agent.policy
    games = [
        measure_traffic(
            policy.network,
            game,
            timesteps=policy.timesteps,
            carry_membrane=policy.carry_membrane,
        )
        for game in _games(agent)
    ]
    return mean_traffic(games)


def _games(agent: Agent) -> list[Tensor]:
    """Frames [FRAMES, 1, ...] of an agent's greedy play, one game at a time: a stack of frames and
    membranes reach back."""
    task = Task(agent.env_id, agent.pipeline, agent.num_actions, 0, trained_in(agent))
    (seed,) = evaluation_seeds(0, 1)
    greedy = Exploration(epsilon=0.0, teacher=0.0)
    frames = play_frames(agent.policy, None, task, seed, greedy, GAMES, FRAMES).frames
    return list(torch.split(frames, 1, 1))


def _input(agent: Agent) -> tuple[tuple[int, ...], int]:
    network = agent.policy.network
    return network.input_shape, network.stack
