"""A network as a function of one frame and an explicit state, in plain torch operators.

This is what exporters can read: no loops over frames, no kernels of this package, the timesteps
unrolled, the first layer once per frame. It gives the bits of `snn_rl.core.network` on the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce, singledispatch

import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.core import operations
from snn_rl.core.execute import Factors
from snn_rl.core.graph import Node
from snn_rl.core.network import Network, State
from snn_rl.core.operations import PIXEL_UNIT, Operation
from snn_rl.core.state import leaves
from snn_rl.core.sums import read_out, read_real
from snn_rl.errors import SnnRlError

HISTORY, MEMBRANE, NEXT = "history", "membrane_", "_next"

Values = list[Tensor]
"""A node's output: one tensor [batch, ...] if it is the same at every timestep, else one each."""


class OneFrame(nn.Module):
    """Frame and state to Q-values and the next state.

    Args:
        network: copied; weights as they are.
        timesteps: spiking steps per frame.
        carry: membranes are a part of the state; else they begin anew with every frame.
        scale: factor per feature of a vector, () for none.

    Raises:
        SnnRlError: names the layer that exporters have no operators for.
    """

    scale: Tensor

    def __init__(
        self, network: Network, timesteps: int, *, carry: bool, scale: Sequence[float] = ()
    ) -> None:
        super().__init__()
        for node in network.nodes:
            if not _is_known(node.operation):
                raise SnnRlError(
                    f"layer {node.name!r} cannot be exported: there is no export of "
                    f"{node.operation.kind!r}"
                )
        network = network.clone().cpu().eval().requires_grad_(False)
        self.network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.timesteps, self.carry = timesteps, carry
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)

    @property
    def state_names(self) -> list[str]:
        """Names of the state's tensors in their order."""
        membranes = [f"{MEMBRANE}{name}" for name in self.network.spiking] if self.carry else []
        return [HISTORY, *membranes] if self.network.stack > 1 else membranes

    def example(self, batch: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A frame of zeros and the state at an episode's start."""
        network = self.network
        dtype = torch.uint8 if network.pixels else torch.float32
        frame = torch.zeros(batch, *network.input_shape, dtype=dtype)
        return frame, self.kept(network.initial_state(batch))

    def kept(self, state: State) -> tuple[Tensor, ...]:
        """The tensors of a network's state that outlive a frame, as `state_names` lists them."""
        return tuple(leaves(state if self.carry else state._replace(layers={})))

    def forward(
        self, frame: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One decision.

        Args:
            frame: [batch, *input_shape]: uint8 pixels, grey and resized, or the raw float32 vector.
            state: as `state_names` lists it, each [batch, ...]; `example` begins an episode.

        Returns:
            Q-values [batch, actions] and the next state.
        """
        network = self.network
        if self.scale.numel():
            frame = frame * self.scale
        following: list[Tensor] = []
        if network.stack > 1:
            frames = torch.cat([state[0], frame.unsqueeze(1)], 1)
            following.append(frames[:, 1:])
            frame = frames.flatten(1, 2)
        if network.pixels:
            frame = (frame.to(torch.float32) - network.offset) * PIXEL_UNIT
        membranes = iter(state[network.stack > 1 :])
        values: dict[str, Values] = {}
        for node in network.nodes:
            if isinstance(node.operation, operations.Input):
                values[node.name] = [frame]
            elif isinstance(node.operation, operations.LIFNeurons):
                current = values[node.inputs[0]]
                before = next(membranes) if self.carry else self._start(node.name, current[0])
                values[node.name], after = self._spike(node.name, current, before)
                following += [after] if self.carry else []
            else:
                values[node.name] = self._layer(node, [values[name] for name in node.inputs])
        (q,) = self._mean(values[network.nodes[-1].name])
        return q, tuple(following)

    def _start(self, name: str, like: Tensor) -> Tensor:
        """Membranes where an episode begins."""
        layer = self.network.spiking[name]
        membrane = torch.zeros_like(like)
        return membrane + layer.start * layer.threshold if layer.start else membrane

    def _spike(self, name: str, current: Values, membrane: Tensor) -> tuple[Values, Tensor]:
        layer = self.network.spiking[name]
        spikes = []
        for step in range(self.timesteps):
            # Multiply, then add: the contract allows no fused operation.
            membrane = membrane * layer.leak + current[min(step, len(current) - 1)]
            spike = (membrane > layer.threshold).to(membrane.dtype)
            membrane = membrane - layer.threshold * spike
            spikes.append(spike)
        return spikes, membrane

    def _layer(self, node: Node, inputs: list[Values]) -> Values:
        layer = dict(self.network.layers).get(node.name)
        if isinstance(layer, nn.Linear):
            last = node is self.network.nodes[-1]
            if self.network.reads_real(node):
                seen = [x.double() for x in inputs[0]]
                seen = self._mean(seen) if last else seen
                return [read_real(layer, x).to(inputs[0][0].dtype) for x in seen]
            if last and (count := len(inputs[0])) > 1:
                return [read_out(layer, reduce(torch.add, inputs[0]), count)]
        steps = max(map(len, inputs))
        wide = [values * steps if len(values) == 1 else values for values in inputs]
        return [evaluate(node.operation, layer, at) for at in zip(*wide, strict=True)]

    def _mean(self, values: Values) -> Values:
        """Over the timesteps, for networks that do not end in a linear layer."""
        return values if len(values) == 1 else [torch.stack(values).mean(0)]


def _is_known(operation: Operation) -> bool:
    own = isinstance(operation, operations.Input | operations.LIFNeurons)
    return own or evaluate.dispatch(type(operation)) is not evaluate.dispatch(Operation)


@singledispatch
def evaluate(operation: Operation, layer: nn.Module | None, inputs: Sequence[Tensor]) -> Tensor:
    """One layer without state at one timestep, in operators that every runtime has.

    Args:
        layer: the module that holds its parameters, if any.
        inputs: values [batch, ...].

    Raises:
        TypeError: the operation needs more than that: `OneFrame` itself runs it.
    """
    raise TypeError(f"{operation.kind} is not run by itself")


@evaluate.register(operations.Linear)
@evaluate.register(operations.Conv2d)
@evaluate.register(operations.BatchNorm)
def _(_: Operation, layer: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    result: Tensor = layer(inputs[0])
    return result


@evaluate.register(operations.ReLU)
def _(_: Operation, layer: None, inputs: Sequence[Tensor]) -> Tensor:
    return functional.relu(inputs[0])


@evaluate.register
def _(operation: operations.AvgPool2d, layer: None, inputs: Sequence[Tensor]) -> Tensor:
    return functional.avg_pool2d(inputs[0], operation.kernel_size, operation.stride)


@evaluate.register
def _(operation: operations.SumPool2d, layer: None, inputs: Sequence[Tensor]) -> Tensor:
    # A convolution with ones: exact, and every runtime has it.
    channels = inputs[0].shape[1]
    ones = torch.ones(channels, 1, *operation.kernel_size)
    stride = operation.stride or operation.kernel_size
    return functional.conv2d(inputs[0], ones, stride=stride, groups=channels)


@evaluate.register
def _(operation: operations.MaxPool2d, layer: None, inputs: Sequence[Tensor]) -> Tensor:
    return functional.max_pool2d(inputs[0], operation.kernel_size, operation.stride)


@evaluate.register(operations.Flatten)
def _(_: Operation, layer: None, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0].flatten(1)


@evaluate.register(operations.Dropout)
def _(_: Operation, layer: None, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0]


@evaluate.register(operations.Add)
def _(_: Operation, layer: None, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0] + inputs[1]


@evaluate.register(operations.Scale)
def _(_: Operation, layer: Factors, inputs: Sequence[Tensor]) -> Tensor:
    result: Tensor = inputs[0] * layer.weight
    return result
