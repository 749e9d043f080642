"""What each layer of a graph reads, and how many accumulates a spike at each position causes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import singledispatch

import torch
from torch import Tensor
from torch.nn import functional

from snn_rl.core import operations
from snn_rl.core.graph import Node, consumers
from snn_rl.core.network import Network
from snn_rl.core.operations import Add, Neurons, Operation, ReLU, Scale, Shape
from snn_rl.errors import SnnRlError

Events = dict[str, Tensor]
"""Fan-out of one spike at every position of the spiking layers that a layer reads."""


class LayerReads:
    """Follows a network's values backwards from its layers to the spikes they come from."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes = {node.name: node for node in network.nodes}
        self.shapes = network.shapes
        self._varying: set[str] = set()
        for node in network.nodes:
            if isinstance(node.operation, Neurons) or self._varying.intersection(node.inputs):
                self._varying.add(node.name)

    def macs(self, node: Node) -> int:
        """Multiply-accumulates of a layer on a dense frame, padding included."""
        return node.operation.macs(*(self.shapes[name] for name in node.inputs))

    def weights(self) -> int:
        """Weights of all linear and convolution layers."""
        return sum(node.operation.weights() for node in self.network.nodes)

    def activations(self) -> int:
        """Values that the hidden layers pass on: spiking neurons, or ReLU outputs."""
        nonlinear = [
            node for node in self.network.nodes if isinstance(node.operation, Neurons | ReLU)
        ]
        return sum(math.prod(self.shapes[node.name]) for node in nonlinear)

    def inputs(self) -> int:
        """Values of the observation, all stacked frames."""
        return math.prod(self.shapes[self.network.nodes[0].name])

    def first_outputs(self) -> int:
        """Outputs of the weighted layers that read the observation."""
        nodes = self.network.nodes
        first = [node for node in nodes if node.operation.weighted and not self.varies(node)]
        return sum(math.prod(self.shapes[node.name]) for node in first)

    def varies(self, node: Node) -> bool:
        """The layer's input differs between the timesteps of a frame."""
        return node.inputs[0] in self._varying

    def costs_operations(self, node: Node) -> bool:
        """True for weighted layers, and for a scale that leads to membranes: others can be folded
        into the weights behind them."""
        adds = isinstance(node.operation, Scale) and self._reaches_membrane(node)
        return node.operation.weighted or adds

    def _reaches_membrane(self, node: Node) -> bool:
        readers = consumers(self.network.nodes, node.name)
        passing = [r for r in readers if r.operation.passes_spikes or isinstance(r.operation, Add)]
        return (
            not readers
            or any(isinstance(reader.operation, Neurons | ReLU) for reader in readers)
            or any(self._reaches_membrane(reader) for reader in passing)
        )

    def events(self, node: Node) -> Events | None:
        """Fan-out of every spike that enters `node`; None if its input is real-valued.

        A layer that reads the sum of two spiking branches is entered by the spikes of both.
        """
        each = fan_out(node.operation, self.shapes[node.inputs[0]])
        return self.trace(node.inputs[0], each)

    def density(self, node: Node, densities: Mapping[str, float]) -> float:
        """Share of non-zero inputs of `node`, from the shares of the nodes before it."""
        return self._density(node.inputs[0], densities)

    def _density(self, name: str, densities: Mapping[str, float]) -> float:
        node = self.nodes[name]
        if name in densities:
            return densities[name]
        if node.operation.passes_spikes:
            return self._density(node.inputs[0], densities)
        if isinstance(node.operation, Add):
            # At most: the branches' non-zero positions may coincide.
            return min(1.0, sum(self._density(source, densities) for source in node.inputs))
        return 1.0

    def trace(self, name: str, reached: Tensor) -> Events | None:
        """Carry the fan-out `reached` of the value `name` back to the spikes it consists of."""
        return spikes_in(self.nodes[name].operation, self.nodes[name], reached, self)


@singledispatch
def fan_out(operation: Operation, shape: Shape) -> Tensor:
    """Outputs that one spike at each position of an input of `shape` adds to, float64.

    Raises:
        TypeError: a spike adds to nothing there.
    """
    raise TypeError(f"{operation.kind} adds no spikes up")


@fan_out.register
def _(operation: operations.Linear, shape: Shape) -> Tensor:
    return torch.full(shape, float(operation.out_features), dtype=torch.float64)


@fan_out.register
def _(operation: operations.Scale, shape: Shape) -> Tensor:
    return torch.ones(shape, dtype=torch.float64)


@fan_out.register
def _(operation: operations.Conv2d, shape: Shape) -> Tensor:
    with torch.enable_grad():
        plane = torch.zeros(1, 1, *shape[1:], dtype=torch.float64, requires_grad=True)
        kernel = torch.ones(1, 1, *operation.kernel_size, dtype=torch.float64)
        reached = functional.conv2d(
            plane, kernel, None, operation.stride, operation.padding, operation.dilation
        )
        (gradient,) = torch.autograd.grad(reached.sum(), plane)
    channels = operation.out_channels // operation.groups
    return (gradient[0] * channels).expand(shape)


@singledispatch
def spikes_in(
    operation: Operation, node: Node, reached: Tensor, reads: LayerReads
) -> Events | None:
    """The spikes that an operation's output consists of, with their fan-out; None for real values.

    Args:
        reached: fan-out of one spike at each position of the output.

    Raises:
        SnnRlError: what becomes of spikes in the operation is not known.
    """
    raise SnnRlError(f"the energy of {operation.kind!r} (layer {node.name!r}) is not known")


@spikes_in.register(operations.LIFNeurons)
@spikes_in.register(operations.AdaptiveNeurons)
def _(_: Operation, node: Node, reached: Tensor, reads: LayerReads) -> Events | None:
    return {node.name: reached}


@spikes_in.register(operations.Input)
@spikes_in.register(operations.Linear)
@spikes_in.register(operations.Conv2d)
@spikes_in.register(operations.BatchNorm)
@spikes_in.register(operations.ReLU)
def _(_: Operation, node: Node, reached: Tensor, reads: LayerReads) -> Events | None:
    return None


@spikes_in.register(operations.Flatten)
@spikes_in.register(operations.Dropout)
@spikes_in.register(operations.Scale)
def _(_: Operation, node: Node, reached: Tensor, reads: LayerReads) -> Events | None:
    (source,) = node.inputs
    return reads.trace(source, reached.reshape(reads.shapes[source]))


@spikes_in.register
def _(
    operation: operations.SumPool2d | operations.AvgPool2d | operations.MaxPool2d,
    node: Node,
    reached: Tensor,
    reads: LayerReads,
) -> Events | None:
    # The sum over where a spike gets to. Max-pooling passes one on for all of a window, so there it
    # is the most that one can cause.
    (source,) = node.inputs
    with torch.enable_grad():
        spikes = torch.zeros(1, *reads.shapes[source], dtype=torch.float64, requires_grad=True)
        pooled = functional.avg_pool2d(
            spikes, operation.kernel_size, operation.stride, divisor_override=1
        )
        (gradient,) = torch.autograd.grad(pooled, spikes, reached[None])
    return reads.trace(source, gradient[0])


@spikes_in.register(operations.Add)
def _(_: Operation, node: Node, reached: Tensor, reads: LayerReads) -> Events | None:
    left, right = (reads.trace(source, reached) for source in node.inputs)
    if left is None or right is None:
        return None
    return {
        source: sum(e[source] for e in (left, right) if source in e)  # type: ignore[misc]
        for source in left | right
    }


def rates_per_neuron(
    network: Network, timesteps: int, spike_rates: Mapping[str, float | Tensor]
) -> dict[str, Tensor]:
    """Spikes per neuron per frame in the layers' shapes, float64; a mean spreads evenly.

    Raises:
        SnnRlError: rates that are missing, of an unknown layer or impossible.
    """
    if spike_rates.keys() != network.spiking.keys():
        raise SnnRlError(
            f"spike rates are given for the layers {sorted(spike_rates)}; the network's spiking "
            f"layers are {sorted(network.spiking)}"
        )
    rates = {}
    for name, layer in network.spiking.items():
        rate = torch.as_tensor(spike_rates[name], dtype=torch.float64, device="cpu").detach()
        if rate.dim() and tuple(rate.shape) != layer.shape:
            raise SnnRlError(
                f"the spike rates of layer {name!r} have shape {tuple(rate.shape)}; the layer has "
                f"{layer.shape}"
            )
        if not bool(((rate >= 0) & (rate <= timesteps)).all()):
            raise SnnRlError(
                f"the spike rate of layer {name!r} must lie between 0 and its {timesteps} timesteps"
            )
        rates[name] = rate.expand(layer.shape)
    return rates


@torch.no_grad()
def activation_densities(ann: Network, x: Tensor) -> dict[str, float]:
    """Share of non-zero outputs of every ReLU, by name, on frames [frames, batch, ...]."""
    densities: dict[str, float] = {}
    activations = {node.name for node in ann.nodes if isinstance(node.operation, ReLU)}

    def note(name: str, value: Tensor) -> None:
        if name in activations:
            densities[name] = int(value.count_nonzero()) / value.numel()

    ann(x, on_value=note)
    return densities
