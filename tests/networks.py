"""Small random networks, and how tests play them."""

from __future__ import annotations

from typing import Any

import torch
from graphs import node_of

from snn_rl.core.graph import Node
from snn_rl.core.grid import snap
from snn_rl.core.network import Network

LAYER = {"threshold": "layer", "leak": "neuron"}


def mlp(seed: int = 0, *, stack: int = 1, gain: float = 2.0) -> Network:
    """3 features -> 8 -> 5 spiking neurons -> 2 outputs."""
    nodes = [
        node_of("input", "input", (), {"shape": [3], "pixels": False, "stack": stack}),
        node_of("fc1", "linear", ("input",), {"in_features": 3 * stack, "out_features": 8}),
        node_of("lif1", "lif", ("fc1",), {"shape": [8], **LAYER}),
        node_of("fc2", "linear", ("lif1",), {"in_features": 8, "out_features": 5}),
        node_of("lif2", "lif", ("fc2",), {"shape": [5], **LAYER}),
        node_of("out", "linear", ("lif2",), {"in_features": 5, "out_features": 2}),
    ]
    return initialised(nodes, seed, gain)


def cnn(seed: int = 0, *, stack: int = 1, gain: float = 3.0) -> Network:
    """2x6x6 pixels -> conv 4 -> conv 3 -> 2 outputs."""
    conv = {"kernel_size": 3, "stride": 1}
    nodes = [
        node_of("input", "input", (), {"shape": [2, 6, 6], "pixels": True, "stack": stack}),
        node_of("conv1", "conv", ("input",), {"in_channels": 2 * stack, "out_channels": 4, **conv}),
        node_of("lif1", "lif", ("conv1",), {"shape": [4, 4, 4], **LAYER}),
        node_of("conv2", "conv", ("lif1",), {"in_channels": 4, "out_channels": 3, **conv}),
        node_of("lif2", "lif", ("conv2",), {"shape": [3, 2, 2], **LAYER}),
        node_of("flat", "flatten", ("lif2",)),
        node_of("out", "linear", ("flat",), {"in_features": 12, "out_features": 2}),
    ]
    return initialised(nodes, seed, gain)


def initialised(nodes: list[Node], seed: int, gain: float) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(nodes)
    for layer in network.spiking.values():
        layer.spread_leak(0.05, 0.95)
        layer.threshold.data.fill_(0.7)
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            parameter.data *= gain
    snap(network, 8)
    network.timesteps, network.carry_membrane = 1, True
    return network.eval()


def play(network: Network, frames: int, batch: int, seed: int, resets: float = 0.2) -> Any:
    """Random observations and episode starts."""
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, batch, *network.input_shape)
    if network.pixels:
        x = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    else:
        x = torch.randn(shape, generator=generator)
    return x, torch.rand(frames, batch, generator=generator) < resets
