"""Conversion alone: how well an ANN does as spikes that nobody has trained yet.

    python benchmarks/untrained.py --agent zoo:CartPole-v1/ann --trials 50
    python benchmarks/untrained.py --classifier runs/vision/RUN/ann --data DIR

The same ANN is converted at every T twice: with the statistics of its own activations, and with
those of the spikes that arrive, measured layer by layer. Membranes start every frame at zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from comparing import run_script, say

from snn_rl.agents.calibration import play_frames
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.dqn.rollout import Exploration
from snn_rl.agents.dqn.validation import Task
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.loading import load_agent
from snn_rl.agents.policy import Policy
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.core.network import Network
from snn_rl.support.markdown import table
from snn_rl.vision.classifier import load_classifier
from snn_rl.vision.datasets import load_data
from snn_rl.vision.evaluation import evaluate as evaluate_images
from snn_rl.vision.process import Process
from snn_rl.vision.scoring import settings_of

GAMES, FRAMES, EPSILON = 8, 64, 0.05
"""Play that thresholds and statistics of an agent are measured on."""
CALIBRATION = 512
"""Images that those of a classifier are measured on."""

Scorer = Callable[[Network, int], str]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--agent", help="a saved ANN, or zoo:<env>/<stage>")
    what.add_argument("--classifier", type=Path, help="folder of an image classifier's ANN")
    parser.add_argument("--data", type=Path, help="folder of the images")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--percentile", type=float, nargs="+", default=[75.0, 90.0, 97.0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.agent:
        network, calibration, score = _agent(args.agent, args.trials)
    else:
        network, calibration, score = _classifier(args.classifier, args.data, args.images)
    say(f"ANN: {score(network, 1)}")
    ways = [(own, p) for own in (True, False) for p in args.percentile]
    rows = []
    for timesteps in args.timesteps:
        row = [str(timesteps)]
        for own, percentile in ways:
            options = NeuronOptions(percentile=percentile)
            spiking = convert(
                network, calibration, timesteps=timesteps, options=options, remeasure=not own
            )
            row.append(score(spiking.eval(), timesteps))
        rows.append(row)
        say(" | ".join(row))
    heads = [f"{'ANN' if own else 'spikes'}, {p:g} %" for own, p in ways]
    print(table(["T", *heads], rows))


def _agent(source: str, trials: int) -> tuple[Network, Calibration, Scorer]:
    agent = load_agent(source, engine="torch")
    policy = agent.policy
    conditions = trained_in(agent)
    task = Task(agent.env_id, agent.pipeline, agent.num_actions, 0, conditions)
    calibration = play_frames(policy, None, task, 0, Exploration(EPSILON, 0.0), GAMES, FRAMES)

    def score(network: Network, timesteps: int) -> str:
        actor = Policy(network, timesteps, False, policy.privileged)
        seeds = evaluation_seeds(0, trials)
        played = evaluate(actor, agent.env_id, agent.pipeline, seeds, conditions)
        return f"{played.mean:.1f} ± {played.standard_error or 0:.1f}"

    return policy.network, calibration, score


def _classifier(
    folder: Path, root: Path | None, images: int
) -> tuple[Network, Calibration, Scorer]:
    data = load_data(settings_of(folder, root))
    chosen = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(0))
    ((seen, _),) = data.train.batches([chosen[:CALIBRATION]])
    process = Process()

    def score(network: Network, timesteps: int) -> str:
        found = evaluate_images(network, data.test, timesteps, process, limit=images)
        return f"{100 * found.accuracy:.2f}"

    return load_classifier(folder).network, Calibration(seen[None]), score


if __name__ == "__main__":
    raise SystemExit(run_script(main))
