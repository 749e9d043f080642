"""Random spiking networks of every shape that the event-driven engine runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from graphs import node_of
from hypothesis import strategies as st

from snn_rl.core.graph import Node
from snn_rl.core.grid import snap
from snn_rl.core.network import Network
from snn_rl.inference.engine import EventEngine
from snn_rl.inference.lowering import lower
from snn_rl.inference.plan import Plan

MOST_TIMESTEPS = 4
GRANULARITY = st.sampled_from(["layer", "channel", "neuron"])


class _Graph:
    """Nodes in the making, with the shape of the last one."""

    def __init__(self, draw: st.DrawFn, first: Node, shape: tuple[int, ...]) -> None:
        self.draw, self.nodes, self.shape = draw, [first], shape

    @property
    def last(self) -> str:
        return self.nodes[-1].name

    def add(self, op: Any, options: dict[str, Any] | None = None, *inputs: str) -> str:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(node_of(name, op, inputs or (self.last,), options or {}))
        self.shape = Network(self.nodes).shapes[name]
        return name

    def lif(self, *inputs: str) -> str:
        options: dict[str, Any] = {kind: self.draw(GRANULARITY) for kind in ("threshold", "leak")}
        if self.draw(st.booleans()):
            options["start"] = 0.5
        return self.add("lif", {"shape": list(self.shape), **options}, *inputs)

    def conv(self, *inputs: str, same: bool = False) -> str:
        """A random convolution; `same` keeps height and width."""
        draw, channels = self.draw, self.shape[0]
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
        options: dict[str, Any] = {
            "in_channels": channels,
            "out_channels": groups * draw(st.integers(1, 9)),
            "groups": groups,
            "bias": draw(st.booleans()),
        }
        if same:
            options |= {"kernel_size": 3, "padding": 1}
        else:
            sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
            kernel, stride, padding = draw(sizes), draw(sizes), draw(sizes)
            # A kernel that is spread out may be larger than a pooled image.
            spread = [draw(st.integers(1, 2 if min(self.shape[1:]) >= 5 else 1)) for _ in kernel]
            options |= {
                "kernel_size": list(kernel),
                "stride": list(stride),
                "dilation": spread,
                "padding": [p - 1 for p in padding],
            }
        return self.add("conv", options, *inputs)

    def linear(self, outputs: int) -> str:
        options = {"in_features": self.shape[0], "out_features": outputs}
        return self.add("linear", {**options, "bias": self.draw(st.booleans())})

    def residual(self) -> None:
        """Two branches behind spikes, each on its own grid, and their sum."""
        source, channels, shape = self.last, self.shape[0], self.shape
        first = self.add("conv", _square(channels))
        self.shape = shape
        if self.draw(st.booleans()):
            second = self.add("scale", {}, source)
        else:
            second = self.add("conv", _square(channels, 1), source)
        self.add("add", {}, first, second)
        self.lif()


def _square(channels: int, kernel: int = 3) -> dict[str, Any]:
    options = {"in_channels": channels, "out_channels": channels, "kernel_size": kernel}
    return {**options, "padding": kernel // 2}


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A network of pixels or real-valued observations, on its weight grid."""
    pixels, stack = draw(st.booleans()), draw(st.integers(1, 3))
    if pixels:
        shape = (draw(st.integers(1, 2)), draw(st.integers(7, 11)), draw(st.integers(7, 11)))
        offset = draw(st.sampled_from([0, 87, 255]))
        options = {"shape": list(shape), "pixels": True, "stack": stack, "offset": offset}
    else:
        shape = (draw(st.integers(1, 5)),)
        options = {"shape": list(shape), "pixels": False, "stack": stack}
    first = node_of("input", "input", (), options)
    graph = _Graph(draw, first, (stack * shape[0], *shape[1:]))
    if pixels:
        _convolutional(draw, graph)
    graph.linear(draw(st.integers(1, 20)))
    graph.lif()
    if draw(st.booleans()):
        graph.add("dropout", {"p": 0.5})
    graph.linear(draw(st.integers(1, 4)))
    return _random(graph.nodes, draw(st.integers(0, 2**16)), draw(st.booleans()))


def _convolutional(draw: st.DrawFn, graph: _Graph) -> None:
    if draw(st.booleans()):
        graph.add("sumpool", {"kernel_size": 2, "stride": draw(st.integers(1, 2))})
    graph.conv()
    graph.lif()
    if draw(st.booleans()):
        graph.residual()
    if draw(st.booleans()):
        graph.conv(same=True)
        graph.lif()
    if min(graph.shape[1:]) >= 2 and draw(st.booleans()):
        graph.add("sumpool", {"kernel_size": 2, "stride": draw(st.integers(1, 2))})
    graph.add("flatten")
    if draw(st.booleans()):
        graph.lif()


def _random(nodes: list[Node], seed: int, tiny: bool) -> Network:
    """Random parameters; `tiny` leaks bring membranes down to denormal numbers."""
    generator = torch.Generator().manual_seed(seed)
    network = Network(nodes)
    for name, parameter in network.named_parameters():
        parameter.data.normal_(0, 1.5, generator=generator)
        if name.endswith("threshold"):
            parameter.data.abs_().mul_(0.3)
        if name.endswith("leak"):
            parameter.data.abs_().clamp_(max=1e-20 if tiny else 1)
    network.constrain()
    snap(network, MOST_TIMESTEPS)
    return network.eval()


def plan_of(network: Network) -> Plan:
    """Plan of a network that `snap` has brought onto its grid."""
    exponents = snap(network, MOST_TIMESTEPS)
    state = network.state_dict().items()
    weights = {name.removeprefix("layers."): value.numpy() for name, value in state}
    card = {"graph": [node.to_dict() for node in network.nodes], "grid": exponents}
    return lower(card, weights)


def observations(network: Network, frames: int, batch: int, seed: int) -> Any:
    """Frames of which few pixels change from one to the next, or random numbers."""
    generator = np.random.default_rng(seed)
    shape = (frames, batch, *network.input_shape)
    if not network.pixels:
        return generator.normal(size=shape).astype(np.float32)
    x = generator.integers(0, 256, shape).astype(np.uint8)
    for f in range(1, frames):
        if generator.random() < 0.7:
            x[f] = np.where(generator.random(shape[1:]) < 0.1, x[f], x[f - 1])
    return x


def engine_of(network: Network, timesteps: int, carry: bool) -> EventEngine:
    """Event-driven engine of a network on its grid."""
    return EventEngine(plan_of(network), timesteps, carry)
