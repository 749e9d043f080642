"""A network as a function of one frame and an explicit state, in plain torch operators.

This is what exporters can read: no loops over frames, no kernels of this package, the timesteps
unrolled, the first layer once per frame. It gives the bits of `snn_rl.core.network` on the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.agents.agent import Agent
from snn_rl.core.graph import Node
from snn_rl.core.network import Network
from snn_rl.core.stacking import PIXEL_UNIT

HISTORY, MEMBRANE, NEXT = "history", "membrane_", "_next"

Values = list[Tensor]
"""A node's output: one tensor [batch, ...] if it is the same at every timestep, else one each."""


class OneFrame(nn.Module):
    """Frame and state to Q-values and the next state.

    Args:
        network: copied; weights as they are.
        timesteps: spiking steps per frame.
        carry: membranes are a part of the state; else they start every frame at zero.
        scale: factor per feature of a vector, () for none.
    """

    scale: Tensor

    def __init__(
        self, network: Network, timesteps: int, *, carry: bool, scale: Sequence[float] = ()
    ) -> None:
        super().__init__()
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
        """A frame and the state at an episode's start, all zeros."""
        network = self.network
        dtype = torch.uint8 if network.pixels else torch.float32
        frame = torch.zeros(batch, *network.input_shape, dtype=dtype)
        state = network.initial_state(batch)
        return frame, state if self.carry else state[: network.stack > 1]

    def forward(
        self, frame: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One decision.

        Args:
            frame: [batch, *input_shape]: uint8 pixels, grey and resized, or the raw float32 vector.
            state: as `state_names` lists it, each [batch, ...]; zeros begin an episode.

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
            if node.op == "input":
                values[node.name] = [frame]
            elif node.op == "lif":
                current = values[node.inputs[0]]
                before = next(membranes) if self.carry else torch.zeros_like(current[0])
                values[node.name], after = self._spike(node.name, current, before)
                following += [after] if self.carry else []
            else:
                values[node.name] = self._layer(node, [values[name] for name in node.inputs])
        (q,) = self._mean(values[network.nodes[-1].name])
        return q, tuple(following)

    def _spike(self, name: str, current: Values, membrane: Tensor) -> tuple[Values, Tensor]:
        layer: Any = self.network.layers[name]
        spikes = []
        for step in range(self.timesteps):
            # Multiply, then add: the contract allows no fused operation.
            membrane = membrane * layer.leak + current[min(step, len(current) - 1)]
            spike = (membrane > layer.threshold).to(membrane.dtype)
            membrane = membrane - layer.threshold * spike
            spikes.append(spike)
        return spikes, membrane

    def _layer(self, node: Node, inputs: list[Values]) -> Values:
        if node.op == "linear" and node is self.network.nodes[-1] and len(inputs[0]) > 1:
            return [self._read_out(node, inputs[0])]
        steps = max(map(len, inputs))
        wide = [values * steps if len(values) == 1 else values for values in inputs]
        return [self._evaluate(node, at) for at in zip(*wide, strict=True)]

    def _read_out(self, node: Node, spikes: Values) -> Tensor:
        layer: Any = self.network.layers[node.name]
        total = spikes[0]
        for spike in spikes[1:]:
            total = total + spike
        bias = 0 if layer.bias is None else len(spikes) * layer.bias
        result: Tensor = (functional.linear(total, layer.weight) + bias) / len(spikes)
        return result

    def _mean(self, values: Values) -> Values:
        """Over the timesteps, for networks that do not end in a linear layer."""
        return values if len(values) == 1 else [torch.stack(values).mean(0)]

    def _evaluate(self, node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
        """One layer without state at one timestep."""
        x, layer = inputs[0], cast(Any, self.network.layers)
        match node.op:
            case "add":
                return x + inputs[1]
            case "relu":
                return functional.relu(x)
            case "scale":
                return cast(Tensor, x * layer[node.name].weight)
            case "dropout":
                return x
            case "flatten":
                return x.flatten(1)
            case "sumpool":
                return _sum_pool(x, node.options)
            case "avgpool":
                return functional.avg_pool2d(x, **node.options)
            case "linear" if self.network.reads_observation(node):
                # As the engine does: real-valued observations lie on no grid.
                weight, bias = layer[node.name].weight, layer[node.name].bias
                bias = None if bias is None else bias.double()
                return functional.linear(x.double(), weight.double(), bias).to(x.dtype)
            case _:
                return cast(Tensor, layer[node.name](x))


def _sum_pool(x: Tensor, options: dict[str, Any]) -> Tensor:
    """Sums of windows as a convolution with ones: exact, and every runtime has it."""
    kernel = options["kernel_size"]
    height, width = kernel if isinstance(kernel, list) else (kernel, kernel)
    channels = x.shape[1]
    ones = torch.ones(channels, 1, height, width)
    return functional.conv2d(x, ones, stride=options["stride"], groups=channels)


def one_frame(agent: Agent) -> OneFrame:
    """The agent's network, from the frame as its environment gives it (grey and resized)."""
    policy = agent.policy
    scale = () if policy.privileged else agent.pipeline.scale
    return OneFrame(policy.network, policy.timesteps, carry=policy.carry_membrane, scale=scale)
