"""Spiking agents as NIR graphs (neuromorphs.github.io/NIR), for other simulators and chips.

NIR has no word for the reset by subtraction: a reader has to be told (Norse's reset_subtract), and
the file's metadata say so. Neurons are CubaLIF without a synaptic memory (tau_syn = dt), which
readers discretise as v <- (1 - dt/tau) v + I; 1 - dt/tau is recomputed there, so values agree to
rounding.
"""

from __future__ import annotations

import json
import os
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from snn_rl.core import operations
from snn_rl.core.execute import Factors
from snn_rl.core.graph import Node
from snn_rl.core.network import Network
from snn_rl.core.neuron import LIF
from snn_rl.core.operations import PIXEL_UNIT, Operation, Shape
from snn_rl.errors import SnnRlError
from snn_rl.exchange.exportable import Exportable
from snn_rl.exchange.extras import extra

DT = 2.0**-10
"""Seconds per timestep, a power of two so that readers divide by it exactly; any other would do."""
CLIP = 2.0**-60
"""Leaks of exactly 1, whose time constant is infinite, move by this much: so little that a reader
in float32 neither leaks nor rounds."""
INPUT, OUTPUT = "input", "output"
SUMMED = (operations.Add, operations.Dropout)
"""No nodes in NIR: several edges into one node are summed there."""
WeightAndBias = tuple[NDArray[Any], NDArray[Any]]
Parameters = WeightAndBias | nn.Module | None
"""Of an operation: arrays where it is weighted, else the module that holds them, if any."""
SOFT_RESET = "neurons reset by subtraction (v - v_threshold), not to v_reset: switch it on"


def export_nir(model: Exportable, path: Path) -> tuple[str, ...]:
    """Write a spiking network to `path`.

    The graph computes one timestep. Its input is the frame as the environment gives it (stacked, if
    the agent sees several); the Q-values are the mean of its output over the timesteps of a frame.

    Returns:
        One sentence each on what the format cannot say.

    Raises:
        SnnRlError: it is an ANN, has an operation that NIR lacks, or `nir` is missing.
    """
    nir = extra("nir")
    network = model.network
    if not network.spiking:
        raise SnnRlError(
            f"stage {model.card.get('stage')} is no spiking network, and NIR describes nothing "
            "else: choose a stage such as T1"
        )
    nodes, edges = _Writer(nir, network, model.scale).graph()
    remarks = _remarks(network)
    # Types are checked by this package's own shapes; nir's checker knows no batch-free Flatten.
    graph = nir.NIRGraph(nodes, edges, metadata=_metadata(model, remarks), type_check=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        nir.write(temporary, graph)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return remarks


class _Writer:
    """Walks the layer graph in order."""

    def __init__(self, nir: Any, network: Network, scale: tuple[float, ...]) -> None:
        self.nir, self.network = nir, network
        self.scale = np.tile(np.asarray(scale, np.float64), network.stack) if scale else None
        self.shapes = network.shapes
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.sources: dict[str, list[str]] = {}  # node of the layer graph -> nodes of NIR, summed

    def graph(self) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Nodes by name and edges."""
        first, *others = self.network.nodes
        shape = np.array(self.network.stacked_shape())
        self.nodes[INPUT] = self.nir.Input({"input": shape})
        self.sources[first.name] = [INPUT]
        for node in others:
            self._read(node)
        last = self.network.nodes[-1].name
        self.nodes[OUTPUT] = self.nir.Output({"output": np.array(self.shapes[last])})
        self.edges += [(source, OUTPUT) for source in self.sources[last]]
        return self.nodes, self.edges

    def _read(self, node: Node) -> None:
        sources = [source for name in node.inputs for source in self.sources[name]]
        if isinstance(node.operation, SUMMED):
            self.sources[node.name] = sources
            return
        name = f"{node.name}_" if node.name in (INPUT, OUTPUT) else node.name
        self.nodes[name] = self._made(node)
        self.edges += [(source, name) for source in sources]
        self.sources[node.name] = [name]

    def _made(self, node: Node) -> Any:
        layer: Parameters = dict(self.network.layers).get(node.name)
        if node.operation.weighted:
            layer = self._weights(node)
        before = self.shapes[node.inputs[0]]
        try:
            return counterpart(node.operation, self.nir, layer, before)
        except SnnRlError as error:
            raise SnnRlError(f"'{node.name}': {error}") from None

    def _weights(self, node: Node) -> WeightAndBias:
        """What counts pixels or scales features goes into the first layer."""
        layer = self.network.weighted(node.name)
        weight = layer.weight.detach().double().contiguous().numpy()
        bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().numpy()
        network = self.network
        if node.inputs[0] == network.nodes[0].name and network.pixels:
            if network.offset and getattr(node.operation, "padding", (0, 0)) != (0, 0):
                raise SnnRlError(
                    f"'{node.name}' pads pixels that count from grey level {network.offset}, which "
                    "NIR cannot say"
                )
            weight = weight * PIXEL_UNIT
            bias = bias - network.offset * weight.reshape(len(weight), -1).sum(1)
        elif self.scale is not None and network.reads_observation(node):
            weight = weight * self.scale
        return weight.astype(np.float32), bias.astype(np.float32)


@singledispatch
def counterpart(operation: Operation, nir: Any, layer: Parameters, before: Shape) -> Any:
    """The NIR node of an operation.

    Args:
        layer: its parameters.
        before: shape of one sample that it reads.

    Raises:
        SnnRlError: NIR has none.
    """
    raise SnnRlError(f"{type(operation).__name__} has no counterpart in NIR")


@counterpart.register(operations.Linear)
def _(_: Operation, nir: Any, layer: WeightAndBias, before: Shape) -> Any:
    return nir.Affine(*layer)


@counterpart.register
def _(operation: operations.Conv2d, nir: Any, layer: WeightAndBias, before: Shape) -> Any:
    weight, bias = layer
    sizes = (operation.stride, operation.padding, operation.dilation, operation.groups)
    return nir.Conv2d(before[1:], weight, *sizes, bias)


@counterpart.register
def _(operation: operations.AvgPool2d, nir: Any, layer: None, before: Shape) -> Any:
    # Few readers know NIR's AvgPool2d; all know convolutions.
    channels, *plane = before
    shape = (channels, 1, *operation.kernel_size)
    weight = np.full(shape, 1 / operation.area, np.float32)
    stride = operation.stride or operation.kernel_size
    bias = np.zeros(channels, np.float32)
    return nir.Conv2d(tuple(plane), weight, stride, (0, 0), (1, 1), channels, bias)


@counterpart.register
def _(operation: operations.SumPool2d, nir: Any, layer: None, before: Shape) -> Any:
    stride = operation.stride or operation.kernel_size
    return nir.SumPool2d(np.array(operation.kernel_size), np.array(stride), np.array([0, 0]))


@counterpart.register(operations.Flatten)
def _(_: Operation, nir: Any, layer: None, before: Shape) -> Any:
    return nir.Flatten({"input": np.array(before)}, start_dim=0)


@counterpart.register(operations.Scale)
def _(_: Operation, nir: Any, layer: Factors, before: Shape) -> Any:
    return nir.Scale(np.broadcast_to(layer.weight.detach().numpy(), before).copy())


@counterpart.register(operations.LIFNeurons)
def _(_: Operation, nir: Any, layer: LIF, before: Shape) -> Any:
    # CubaLIF with a full array for every parameter.
    if layer.start:
        raise SnnRlError("NIR cannot say that membranes start at half their threshold")
    leak, threshold = (
        np.broadcast_to(p.detach().double().numpy(), layer.shape)
        for p in (layer.leak, layer.threshold)
    )
    tau = DT / np.maximum(1 - leak, CLIP)
    full = {"tau_syn": np.full(layer.shape, DT), "tau_mem": tau, "r": tau / DT}
    zeros = {"v_leak": np.zeros(layer.shape), "v_reset": np.zeros(layer.shape)}
    arrays = full | zeros | {"v_threshold": threshold, "w_in": np.ones(layer.shape)}
    return nir.CubaLIF(**{name: array.astype(np.float32) for name, array in arrays.items()})


def _remarks(network: Network) -> tuple[str, ...]:
    leaks = [layer.leak.detach() for layer in network.spiking.values()]
    clipped = sum(int((leak == 1).sum()) for leak in leaks)
    remarks = [f"NIR cannot say it: {SOFT_RESET}"]
    if clipped:
        remarks.append(
            f"{clipped} leaks of exactly 1 have no finite time constant: moved by {CLIP:.2g}"
        )
    return tuple(remarks)


def _metadata(model: Exportable, remarks: tuple[str, ...]) -> dict[str, Any]:
    return {
        "source": f"snn-rl, stage {model.title}",
        "reset": SOFT_RESET,
        "dt": DT,
        "timesteps": model.timesteps,
        "carry_membrane": model.carry,
        "stack": model.network.stack,
        "observation": json.dumps(model.card["observation"]),
        "output": "Q-values are the mean of the output over the timesteps of a frame",
        "remarks": json.dumps(remarks),
    }
