"""A spiking agent with the weights that spikes add rounded to 8 bits, and its score.

    python benchmarks/int8_agent.py --out runs/int8 [--agent zoo:PongNoFrameskip-v4/T1]

Each layer behind spikes gets the finest power of two at which its weights are whole numbers from
-127 to 127; biases, and the layer that reads pixels, stay on their own grid. Nothing is trained.
Saves the agent and prints its mean score over all starts beside the untouched one's.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from snn_rl.agents.agent import Agent
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.loading import load_agent

LARGEST = 127


@torch.no_grad()
def round_to_bytes(agent: Agent) -> dict[str, int]:
    """Round in place; exponents by layer."""
    network = agent.policy.network
    found = {}
    for node in network.nodes:
        if node.operation.weighted and node.inputs != (network.nodes[0].name,):
            layer: Any = network.layers[node.name]
            k = math.floor(math.log2((LARGEST + 0.499) / float(layer.weight.abs().max())))
            layer.weight.copy_(torch.round(layer.weight * 2.0**k) / 2.0**k)
            found[node.name] = k
    return found


def main() -> None:
    """Round, save, play."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agent", default="zoo:PongNoFrameskip-v4/T1")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rounded = load_agent(options.agent, "torch")
    print(f"exponents: {round_to_bytes(rounded)}")
    rounded.save(options.out)
    for name in (str(options.out), options.agent):
        row = evaluate_agent(load_agent(name), name, trials="all")
        print(f"{name}: {row['mean_reward']:.2f} over {row['trials']} starts", flush=True)


if __name__ == "__main__":
    main()
