"""Small networks in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from graphs import node_of

from snn_rl.core.network import Network
from snn_rl.runs.checkpoint import save


def example(seed: int = 0, hidden: int = 4) -> Network:
    nodes = [
        node_of("input", "input", (), {"shape": [3], "pixels": False, "stack": 1}),
        node_of("fc", "linear", ("input",), {"in_features": 3, "out_features": hidden}),
        node_of("lif", "lif", ("fc",), {"shape": [hidden], "threshold": "layer", "leak": "neuron"}),
        node_of("out", "linear", ("lif",), {"in_features": hidden, "out_features": 2}),
    ]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(nodes).eval()


def saved(folder: Path, seed: int = 0, **card: Any) -> Network:
    network = example(seed)
    save(folder, network, 3, card)
    return network
