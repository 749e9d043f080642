"""Small networks in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from snn_rl.core.graph import Node
from snn_rl.core.network import Network
from snn_rl.runs.checkpoint import save


def example(seed: int = 0, hidden: int = 4) -> Network:
    nodes = [
        Node("input", "input", (), {"shape": [3], "pixels": False, "stack": 1}),
        Node("fc", "linear", ("input",), {"in_features": 3, "out_features": hidden}),
        Node("lif", "lif", ("fc",), {"shape": [hidden], "threshold": "layer", "leak": "neuron"}),
        Node("out", "linear", ("lif",), {"in_features": hidden, "out_features": 2}),
    ]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(nodes).eval()


def saved(folder: Path, seed: int = 0, **card: Any) -> Network:
    network = example(seed)
    save(folder, network, 3, card)
    return network
