"""Greedy evaluation: one full episode per environment and seed, rewards as the game gives them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, zeros_like

from snn_rl.agents.acting import Actor, view
from snn_rl.agents.agent import Agent
from snn_rl.agents.automatic import ChangeCounter
from snn_rl.agents.conditions import (
    STANDARD,
    Conditions,
    every_start,
    frame_limit,
    tell_of_limit,
    trained_in,
)
from snn_rl.agents.distinct import GameEvents, count_distinct
from snn_rl.agents.seeds import evaluation_seeds, validation_seeds
from snn_rl.energy.accounting import energy_report
from snn_rl.envs import atari_game, count_no_ops, falls, has_table
from snn_rl.envs.observation import ObservationPipeline
from snn_rl.errors import SnnRlError

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
"""Of the log, while games are played."""


class Stopped(Exception):
    """An evaluation was given up."""


@dataclass(frozen=True)
class Evaluation:
    """Episodes in the order of their seeds.

    Attributes:
        truncated: episodes that a limit of time or of frames ended.
        distinct_trials: different games, as `snn_rl.agents.distinct` tells them apart.
        neuron_rates: spikes per frame of every neuron by layer, summed over the timesteps.
        changed_pixels: of a frame, those that differ from the frame before; mean, None of vectors.
    """

    rewards: list[float]
    lengths: list[int]
    truncated: int
    distinct_trials: int
    neuron_rates: dict[str, Tensor]
    changed_pixels: float | None = None

    @property
    def spike_rates(self) -> dict[str, float]:
        """Spikes per neuron per frame by layer."""
        return {layer: float(rates.mean()) for layer, rates in self.neuron_rates.items()}

    @property
    def mean(self) -> float:
        """Mean episode reward."""
        return float(np.mean(self.rewards))

    @property
    def std(self) -> float:
        """Population standard deviation of the episode rewards."""
        return float(np.std(self.rewards))

    @property
    def standard_error(self) -> float | None:
        """Of the mean, where the episodes are a random sample; None of a single one."""
        count = len(self.rewards)
        return float(np.std(self.rewards, ddof=1) / np.sqrt(count)) if count > 1 else None


def evaluate(
    actor: Actor,
    env_id: str,
    pipeline: ObservationPipeline,
    seeds: Sequence[int],
    conditions: Conditions = STANDARD,
    should_stop: Callable[[], bool] = lambda: False,
    max_frames: int | None = None,
) -> Evaluation:
    """Play one greedy episode per seed, all side by side.

    Args:
        actor: who plays.
        should_stop: asked at every frame.
        max_frames: episodes are cut off after so many; None lets them end as the game has it, or
            after LONGEST_GAME where the environment has no limit of time.

    Raises:
        UnsupportedEnvironment: the environment cannot be made.
        Stopped: `should_stop` said so, before the episodes' end.
    """
    count = len(seeds)
    limit = frame_limit(env_id, max_frames)
    vector = conditions.make_vector(env_id, count, 0)
    rates, changes = _RateCounter(), ChangeCounter()
    try:
        observation, info = vector.reset(seed=list(seeds))  # type: ignore[arg-type]
        playing = np.arange(count)  # games still on; the network runs for these alone
        state, start = actor.initial_state(count), np.ones(count, np.bool_)
        actions, cut = np.zeros(count, np.int64), np.zeros(count, np.bool_)
        rewards, lengths = np.zeros(count), np.zeros(count, np.int64)
        games = [GameEvents(points_only=atari_game(env_id) is not None) for _ in seeds]
        told = time.monotonic()
        while len(playing) and (limit is None or lengths.max() < limit):
            if should_stop():
                raise Stopped
            if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                played, left = int(lengths.max()), len(playing)
                log.info("%s: %d of %d games go on at frame %d", env_id, left, count, played)
            frames = view(actor, pipeline.encode(observation), info, env_id)[playing]
            changes.observe(frames, start)
            q, state = actor.q_values(frames, state, start, rates.observe)
            actions[playing] = q.argmax(1)
            observation, reward, terminated, truncated, info = vector.step(actions)
            rewards[playing] += reward[playing]
            lengths[playing] += 1
            for i in playing:
                games[i].add(int(actions[i]), float(reward[i]))
            cut[playing] = (truncated & ~terminated)[playing]
            goes_on = ~(terminated | truncated)[playing]
            if not goes_on.all():
                playing = playing[goes_on]
                state = actor.select(state, goes_on)
                changes.select(goes_on)
            start = np.zeros(len(playing), np.bool_)
        cut[playing] = True
    finally:
        vector.close()
    return Evaluation(
        rewards=rewards.tolist(),
        lengths=lengths.tolist(),
        truncated=int(cut.sum()),
        distinct_trials=count_distinct(games),
        neuron_rates=rates.result(),
        changed_pixels=changes.mean,
    )


def evaluate_agent(
    agent: Agent,
    name: str,
    *,
    trials: int | Literal["all"],
    seed: int = 0,
    conditions: Conditions | None = None,
    max_frames: int | None = None,
) -> dict[str, Any]:
    """JSON-able result of `trials` greedy episodes on evaluation seeds, one row of a table.

    "exact" is true where the episodes are all that the environment has, so that "mean_reward" has
    no error; "failures" counts the episodes that ended before their time limit, where that is a
    failure; "validation_starts" the episodes that begin as one does that chose the agent's weights,
    where that can be known. Each is None where it means nothing.

    Args:
        name: how the agent was named (a path, or zoo:<env>/<stage>).
        trials: number of episodes, or "all" for one from each start that the environment has.
        seed: chooses the block of evaluation seeds.
        conditions: by default the frames that the agent was trained on, and nothing more.
        max_frames: as for `evaluate`.

    Raises:
        UnsupportedEnvironment: the environment cannot be made, or not be played from all starts.
        SnnRlError: the seed or the number of trials lies outside its range.
    """
    policy, conditions = agent.policy, conditions or trained_in(agent)
    if max_frames is None:
        tell_of_limit(agent.env_id, "--max-frames")
    exact = trials == "all"
    seeds = every_start(agent.env_id, conditions) if exact else evaluation_seeds(seed, int(trials))
    result = evaluate(
        agent.actor,
        agent.env_id,
        agent.pipeline,
        seeds,
        conditions,
        max_frames=max_frames,
    )
    sizes = {layer: lif.size for layer, lif in policy.network.spiking.items()}
    spikes = sum(rate * sizes[layer] for layer, rate in result.spike_rates.items())
    energy = energy_report(
        policy.network, policy.timesteps, result.neuron_rates, carry_membrane=policy.carry_membrane
    )
    return {
        "agent": name,
        "env": agent.env_id,
        "stage": agent.card.get("stage"),
        "engine": agent.engine,
        "timesteps": policy.timesteps,
        "carry_membrane": policy.carry_membrane,
        "trials": len(seeds),
        "exact": exact,
        "distinct_trials": result.distinct_trials,
        "mean_reward": result.mean,
        "std_reward": result.std,
        "standard_error": 0.0 if exact else result.standard_error,
        "failures": len(seeds) - result.truncated if falls(agent.env_id) else None,
        "validation_starts": validation_starts(agent, seeds, conditions),
        "rewards": result.rewards,
        "lengths": result.lengths,
        "truncated": result.truncated,
        "spike_rate": spikes / max(1, sum(sizes.values())),
        "spike_rates": result.spike_rates,
        "alpha": energy.alpha,
        "changed_pixels": result.changed_pixels,
        "teacher": agent.card.get("teacher"),
        "seed": seed,
        "max_frames": max_frames,
        **asdict(conditions),
    }


def validation_starts(agent: Agent, seeds: Sequence[int], conditions: Conditions) -> int | None:
    """How many episodes begin as one of those does that chose the agent's weights.

    Seeds of both never meet, but a deterministic game has few starts. None where the card does not
    say how the agent was validated.
    """
    validated = agent.card.get("provenance", {}).get("validation")
    if not isinstance(validated, dict):
        return None
    if conditions.flicker > 0 or not has_table(agent.env_id, conditions.sticky):
        return 0
    try:
        seed = validated["seed"]
        chosen = validation_seeds(seed, validated["episodes"])
        chosen += validation_seeds(seed, validated["confirm"], confirm=True)
    except (KeyError, TypeError, SnnRlError):  # another's card may hold anything
        return None
    known = set(count_no_ops(agent.env_id, chosen).tolist())
    return sum(no_ops in known for no_ops in count_no_ops(agent.env_id, seeds).tolist())


class _RateCounter:
    """Counts the spikes of every neuron over the frames that the network sees."""

    def __init__(self) -> None:
        self.spikes: dict[str, Tensor] = {}
        self.frames: dict[str, int] = {}

    def observe(self, layer: str, spikes: Tensor) -> None:
        counts = spikes.sum((0, 1, 2)).cpu()  # whole numbers, exact in float32 for one frame
        if layer not in self.spikes:
            self.spikes[layer] = zeros_like(counts).double()
        self.spikes[layer] += counts
        self.frames[layer] = self.frames.get(layer, 0) + spikes.shape[0] * spikes.shape[2]

    def result(self) -> dict[str, Tensor]:
        return {layer: counts / self.frames[layer] for layer, counts in self.spikes.items()}
