"""Energy of agents at the spike rates and activation densities of real play."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from snn_rl.agents.agent import Agent
from snn_rl.agents.calibration import play_frames
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.dqn.rollout import Exploration
from snn_rl.agents.dqn.validation import Task
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.energy.counts import activation_densities
from snn_rl.energy.report import EnergyReport, energy_report

GAMES, FRAMES = 8, 256
"""Play on which an ANN's activations are counted."""


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
    conditions = trained_in(ann)
    task = Task(ann.env_id, ann.pipeline, ann.num_actions, 0, conditions)
    (seed,) = evaluation_seeds(0, 1)
    greedy = Exploration(epsilon=0.0, teacher=0.0)
    frames = play_frames(ann.policy, None, task, seed, greedy, GAMES, FRAMES).frames
    # One game at a time, whole: a stack of frames reaches back.
    counts = [activation_densities(ann.policy.network, game) for game in torch.split(frames, 1, 1)]
    return {name: sum(c[name] for c in counts) / len(counts) for name in counts[0]}


def _input(agent: Agent) -> tuple[tuple[int, ...], int]:
    network = agent.policy.network
    return network.input_shape, network.stack
