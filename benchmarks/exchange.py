"""Agents in and out: round trips, exports over long play, conversion without training.

    python benchmarks/exchange.py exports [--to onnx|nir|c] [--frames 10000] [--agent zoo:ENV/T1]
    python benchmarks/exchange.py cartpole --out runs/sb3 [--trials 60]
    python benchmarks/exchange.py teacher2 --out runs/teacher2
    python benchmarks/exchange.py untrained --agent runs/sb3/imported [--trials 20] [--carry]

`exports` writes every shipped spiking agent, replays real play in the target's runtime and prints
how exact it is. `cartpole` trains a DQN with Stable-Baselines3 (OUT/model.zip, used again if it is
there), plays it at home and imported, and takes it down to T1. `teacher2` puts the weights of
Pong's teacher into Stable-Baselines3's NatureCNN policy, saves it there, imports it and plays all
starts of the game. `untrained` converts an ANN without training and plays it from T = 1 to 256:
with one threshold per layer, and with thresholds per channel and membranes that start at v/2;
membranes are zeroed at every frame, or carried on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch

import snn_rl
from snn_rl.agents.agent import Agent
from snn_rl.agents.calibration import play_for_calibration
from snn_rl.agents.conditions import trained_in
from snn_rl.agents.dqn.validation import Task
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.exchange.export import export
from snn_rl.agents.exchange.sb3 import from_sb3
from snn_rl.agents.loading import load_agent, zoo
from snn_rl.agents.policy import Policy
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.conversion.convert import convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.core.grid import snap
from snn_rl.core.operations import PIXEL_UNIT

Trials = int | Literal["all"]
TEACHER = "zoo:PongNoFrameskip-v4/teacher2"
RL_ZOO: dict[str, Any] = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "learning_starts": 1000,
    "buffer_size": 100_000,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}
"""The settings of CartPole-v1 in rl-baselines3-zoo."""
WAYS = {
    "per layer, from 0": NeuronOptions(percentile=99.0),
    "per channel, from v/2": NeuronOptions(
        "channel", balance="channel", start=0.5, percentile=99.9
    ),
}


def exports(to: Any, frames: int, agents: Sequence[str]) -> None:
    """One line per agent and runtime."""
    for name in agents or [f"zoo:{name}" for name in zoo()]:
        agent = load_agent(name, "torch")
        if not agent.policy.spiking and not agents:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"agent.{to}"
            done = export(agent, path, to, check=True, frames=frames)
        for verdict in done.verdicts:
            say(f"{name} {verdict}")


def cartpole(out: Path, trials: int) -> None:
    """A DQN of Stable-Baselines3, at home, imported, and as spiking agents."""
    from stable_baselines3 import DQN

    zip_file = out / "model.zip"
    if not zip_file.exists():
        _train_sb3(zip_file)
    home = DQN.load(zip_file, device="cpu")
    rewards = _at_home(home, "CartPole-v1", evaluation_seeds(0, trials))
    say(f"at home: {_mean(rewards)} over {len(rewards)} games")
    agent = from_sb3(zip_file, "CartPole-v1")
    here = evaluate_agent(agent, "imported", trials=trials)["rewards"]
    say(f"imported: {_mean(here)}; {sum(a == b for a, b in zip(rewards, here, strict=True))} of "
        f"{len(here)} games with the same points")  # fmt: skip
    if not (out / "imported").exists():
        agent.save(out / "imported")
    stages = snn_rl.train(
        {"env": "CartPole-v1", "start": str(out / "imported"), "timesteps": 5}, run_dir=out / "run"
    )
    for name, stage in stages.items():
        say(f"{name}: {_mean(evaluate_agent(stage, name, trials=trials)['rewards'])}")


def _train_sb3(path: Path) -> None:
    """Until a test of 20 games is perfect, in steps of 8,192 frames."""
    from stable_baselines3 import DQN

    model = DQN("MlpPolicy", "CartPole-v1", seed=1, device="cpu", **RL_ZOO)
    for _ in range(24):
        model.learn(8192, reset_num_timesteps=False)
        seeds = [10_000 + seed for seed in range(20)]
        if np.mean(_at_home(model, "CartPole-v1", seeds)) >= 499:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)


def _at_home(model: Any, env_id: str, seeds: Sequence[int]) -> list[float]:
    """Greedy games of a Stable-Baselines3 model, one per seed."""
    env, found = gym.make(env_id), []
    for seed in seeds:
        (observation, _), total, over = env.reset(seed=int(seed)), 0.0, False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        found.append(total)
    return found


class _Screens(gym.Env[Any, Any]):
    """What Stable-Baselines3 needs to build a policy for four stacked frames of Pong."""

    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gym.spaces.Discrete(6)


def teacher2(out: Path) -> None:
    """Out to Stable-Baselines3 and back again."""
    from stable_baselines3 import DQN

    teacher = load_agent(TEACHER, "torch")
    network = teacher.policy.network
    model = DQN("CnnPolicy", _Screens(), buffer_size=10, device="cpu")
    policy: Any = model.policy.q_net
    convolutions, dense = policy.features_extractor.cnn, policy.features_extractor.linear
    targets = [*(convolutions[n] for n in (0, 2, 4)), dense[0], policy.q_net[0]]
    layers = [network.layers[n.name] for n in network.nodes if n.operation.weighted]
    for layer, target in zip(layers, targets, strict=True):
        weight, bias = (p.detach().double() for p in (layer.weight, layer.bias))  # type: ignore[union-attr,operator]
        if layer is layers[0]:  # ours: (x - offset) / 256, theirs: x / 255
            bias = bias - weight.sum((1, 2, 3)) * network.offset * PIXEL_UNIT
            weight = weight * 255 * PIXEL_UNIT
        target.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / "model.zip")
    shown = {"maxpool": teacher.maxpool, "fire_reset": teacher.fire_reset}
    agent = from_sb3(out / "model.zip", teacher.env_id, **shown)
    for name, player in (("teacher2", teacher), ("imported", agent)):
        result = evaluate_agent(player, name, trials="all")
        say(f"{name}: {_mean(result['rewards'])} over all {result['trials']} starts")
    if not (out / "imported").exists():
        agent.save(out / "imported")
    say(f"to T1: snn-rl train --env {teacher.env_id} --from {out / 'imported'} --timesteps 1")


def untrained(name: str, trials: Trials, steps: Sequence[int], carry: bool) -> None:
    """A table of mean rewards, one row per way of converting."""
    agent = load_agent(name, "torch")
    conditions = trained_in(agent)
    task = Task(agent.env_id, agent.pipeline, agent.num_actions, 0, conditions)
    known = play_for_calibration(agent.policy, agent.policy, task, 0)
    rewards = evaluate_agent(agent, name, trials=trials)["rewards"]
    say(f"ANN: {_mean(rewards)} over {len(rewards)} games")
    for way, options in WAYS.items():
        for timesteps in steps:
            network = convert(
                agent.policy.network,
                known,
                timesteps=timesteps,
                carry_membrane=carry,
                options=options,
            )
            snap(network, timesteps)
            player = Agent(Policy(network.eval(), timesteps, carry), agent.pipeline, agent.card)
            result = evaluate_agent(player, name, trials=trials)
            rate = result["spike_rate"]
            say(f"{way}, T = {timesteps}: {_mean(result['rewards'])}, {rate:.2f} spikes")


def _trials(text: str) -> Trials:
    return "all" if text == "all" else int(text)


def _mean(rewards: Sequence[float]) -> str:
    error = np.std(rewards, ddof=1) / len(rewards) ** 0.5 if len(rewards) > 1 else np.nan
    return f"{np.mean(rewards):.1f} ± {error:.1f}"


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("exports")
    sub.add_argument("--to", choices=("onnx", "nir", "c"), default="onnx")
    sub.add_argument("--frames", type=int, default=10_000)
    sub.add_argument("--agent", nargs="*", default=[])
    commands.add_parser("teacher2").add_argument("--out", type=Path, required=True)
    sub = commands.add_parser("cartpole")
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--trials", type=int, default=60, help="games of each player")
    sub = commands.add_parser("untrained")
    sub.add_argument("--agent", required=True)
    sub.add_argument("--trials", type=_trials, default=20, help="a number, or all")
    sub.add_argument("--carry", action="store_true", help="membranes go on from frame to frame")
    sub.add_argument("--timesteps", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "exports":
        exports(options.to, options.frames, options.agent)
    elif options.command == "untrained":
        untrained(options.agent, options.trials, options.timesteps, options.carry)
    elif options.command == "cartpole":
        cartpole(options.out, options.trials)
    else:
        teacher2(options.out)


if __name__ == "__main__":
    main()
