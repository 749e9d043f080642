"""Spiking reinforcement-learning agents: train a DQN, convert it to spikes, prune it to T = 1.

    import snn_rl

    agent = snn_rl.load_agent("zoo:CartPole-v1/T1")
    agent.reset()
    action = agent.act(obs)

Importing this package is quick: each name below loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snn_rl.agents.agent import Agent
    from snn_rl.agents.api import train
    from snn_rl.agents.exchange.export import export
    from snn_rl.agents.exchange.sb3 import from_sb3
    from snn_rl.agents.exchange.torch_modules import from_torch
    from snn_rl.agents.loading import load_agent, zoo
    from snn_rl.agents.sweep.api import sweep
    from snn_rl.conversion.convert import Calibration, convert
    from snn_rl.conversion.options import NeuronOptions
    from snn_rl.conversion.temporal_pruning import temporal_pruning
    from snn_rl.conversion.tracing import trace
    from snn_rl.core.network import Network
    from snn_rl.core.neuron import LIF
    from snn_rl.core.scan import lif_scan, lif_step
    from snn_rl.core.surrogates import Surrogate
    from snn_rl.errors import SnnRlError

__version__ = "0.2.0"

__all__ = [
    "LIF",
    "Agent",
    "Calibration",
    "Network",
    "NeuronOptions",
    "SnnRlError",
    "Surrogate",
    "convert",
    "export",
    "from_sb3",
    "from_torch",
    "lif_scan",
    "lif_step",
    "load_agent",
    "sweep",
    "temporal_pruning",
    "trace",
    "train",
    "zoo",
]

_HOME = {
    "Agent": "snn_rl.agents.agent",
    "load_agent": "snn_rl.agents.loading",
    "zoo": "snn_rl.agents.loading",
    "train": "snn_rl.agents.api",
    "sweep": "snn_rl.agents.sweep.api",
    "Calibration": "snn_rl.conversion.convert",
    "NeuronOptions": "snn_rl.conversion.options",
    "convert": "snn_rl.conversion.convert",
    "SnnRlError": "snn_rl.errors",
    "export": "snn_rl.agents.exchange.export",
    "from_sb3": "snn_rl.agents.exchange.sb3",
    "from_torch": "snn_rl.agents.exchange.torch_modules",
    "Network": "snn_rl.core.network",
    "LIF": "snn_rl.core.neuron",
    "Surrogate": "snn_rl.core.surrogates",
    "lif_step": "snn_rl.core.scan",
    "temporal_pruning": "snn_rl.conversion.temporal_pruning",
    "lif_scan": "snn_rl.core.scan",
    "trace": "snn_rl.conversion.tracing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'snn_rl' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
