"""Energy of whole agents at the rates of real play, and how it is shown."""

from __future__ import annotations

import io
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console
from torch import Tensor
from untrained import untrained_agent, untrained_ann

from snn_rl.agents.agent import Agent
from snn_rl.agents.energy import measure_densities, measure_energies
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.energy.views import draw_reports, summary_tables
from snn_rl.support.plotting import save_figure

ENV = "PixelCartPole-v1"


@pytest.fixture(scope="module")
def agents() -> dict[str, Agent]:
    return {"ann": untrained_ann(ENV), "T2": untrained_agent(ENV, timesteps=2)}


def test_every_neuron_is_counted(agents: dict[str, Agent]) -> None:
    agent, seeds = agents["T2"], evaluation_seeds(0, 3)
    policy, pipeline = agent.policy, agent.pipeline
    counts: dict[str, Tensor] = {}

    def count(layer: str, spikes: Tensor) -> None:
        counts[layer] = counts.get(layer, torch.zeros(())) + spikes[0].sum((0, 1))

    frames = 0
    for seed in seeds:  # one game after the other, where `evaluate` plays them side by side
        env = gym.make(ENV)
        observation, _ = env.reset(seed=seed)
        state, start, over = policy.initial_state(1), np.ones(1, np.bool_), False
        while not over:
            frame = pipeline.encode(observation[None])
            q, state = policy.q_values(frame, state, start, count)
            observation, _, terminated, truncated, _ = env.step(int(q.argmax()))
            start, over, frames = np.zeros(1, np.bool_), terminated or truncated, frames + 1
    played = evaluate(policy, ENV, pipeline, seeds)
    assert sum(played.lengths) == frames
    for layer, rates in played.neuron_rates.items():
        torch.testing.assert_close(rates, counts[layer].double() / frames)
        assert played.spike_rates[layer] == pytest.approx(float(rates.mean()))


def test_the_ann_gives_the_densities_of_its_shape(agents: dict[str, Agent]) -> None:
    densities = measure_densities(agents["ann"])
    assert all(0 < density < 1 for density in densities.values())
    with_ann, alone = measure_energies(agents, 2), measure_energies({"T2": agents["T2"]}, 2)
    skipping = with_ann["T2"].ann_zero_skipping_pj
    assert skipping is not None
    assert skipping < with_ann["T2"].ann_pj
    assert with_ann["ann"].ann_zero_skipping_pj == skipping
    assert alone["T2"].ann_zero_skipping_pj is None
    stacked = untrained_ann(ENV, stack=4)
    assert measure_energies({"teacher": stacked} | {"T2": agents["T2"]}, 2)["T2"] == alone["T2"]


def test_tables_and_figure_hold_every_stage(agents: dict[str, Agent], tmp_path: Path) -> None:
    reports = measure_energies(agents, 2)
    console = Console(file=io.StringIO(), width=200)
    console.print(*summary_tables(reports, "frame"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    report = reports["T2"]
    for text in ("ANN, zeros skipped", f"{report.alpha:.2f}", f"{report.leak_multiplies:,}"):
        assert text in shown
    figure = draw_reports(reports, "frame")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["ANN", "ANN, zeros\nskipped", "T2"]
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights[2] == pytest.approx(report.exact_pj / 1000)
    save_figure(figure, tmp_path / "new" / "energy.png")
    drawn = imread(tmp_path / "new" / "energy.png")[..., :3]
    for bar in figure.axes[0].patches:
        colour = np.array(bar.get_facecolor()[:3])
        assert (np.abs(drawn - colour) < 0.02).all(2).sum() > 100, "a bar's colour is not there"
