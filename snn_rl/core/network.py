"""Executes a layer graph: an ANN, or a spiking network with explicit state.

Execution is layer by layer (there is no feedback between layers): each convolution or linear
layer runs once on all frames and timesteps folded into the batch, then the neurons scan over
time. The first layer sees the same frame at every timestep, so it runs once per frame.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.core import execute, operations
from snn_rl.core.graph import Node, check
from snn_rl.core.neuron import LIF
from snn_rl.core.scan import lif_scan
from snn_rl.core.stacking import scale_pixels, stack_frames
from snn_rl.core.surrogates import Surrogate

State = tuple[Tensor, ...]
"""Frame history (only if frames are stacked), then one membrane tensor per spiking layer, each
[batch, ...]."""

CurrentHook = Callable[[str, Tensor, Tensor, Tensor | None], None]
SpikeHook = Callable[[str, Tensor], None]


class Network(nn.Module):
    """A layer graph with its parameters; without spiking layers it is an ordinary ANN.

    Args:
        nodes: the layer graph, input first, output last.
        surrogate: gradient of the spikes in training.

    Attributes:
        timesteps, carry_membrane: how a spiking network is run where a call does not say it, as
            `convert` or the saved agent's card had it; None where nobody has said it yet.
    """

    def __init__(self, nodes: list[Node], surrogate: Surrogate | None = None) -> None:
        super().__init__()
        self.nodes = list(nodes)
        self.shapes = check(nodes)
        """Shape of one sample at the output of every node, by node name."""
        self.surrogate = surrogate or Surrogate()
        self.timesteps: int | None = None
        self.carry_membrane: bool | None = None
        built = {node.name: execute.build(node.operation) for node in nodes}
        self.layers = nn.ModuleDict({n: layer for n, layer in built.items() if layer is not None})
        self.spiking = {n: layer for n, layer in built.items() if isinstance(layer, LIF)}
        """The spiking layers by name, in order of execution."""
        seen = nodes[0].operation
        assert isinstance(seen, operations.Input)
        self.input_shape, self.pixels = seen.frame, seen.pixels
        self.stack, self.offset = seen.stack, seen.offset
        # Values that are the real-valued observation itself, at most reshaped.
        self._observed = set() if self.pixels else {nodes[0].name}
        for node in nodes:
            if node.operation.keeps_values and node.inputs[0] in self._observed:
                self._observed.add(node.name)
        if self.pixels:  # convolutions are about a third faster in this layout
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters(), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are: float32, unless the network was turned into float64."""
        return next(self.parameters(), torch.empty(0)).dtype

    def reads_observation(self, node: Node) -> bool:
        """Whether a layer reads the real-valued observation itself, at most reshaped."""
        return node.inputs[0] in self._observed

    def constrain(self) -> None:
        """Bring thresholds and leaks back into their range; call after every optimiser step."""
        for layer in self.spiking.values():
            layer.constrain()

    def initial_state(self, batch: int) -> State:
        """State at an episode's start: membranes at zero or where they start, frames at zero."""
        state = [
            torch.zeros(shape, dtype=dtype, device=self.device)
            for shape, dtype in self._state_layout(batch)
        ]
        for membrane, layer in zip(state[self.stack > 1 :], self.spiking.values(), strict=True):
            if layer.start:
                membrane += layer.start * layer.threshold.detach()
        return tuple(state)

    def _state_layout(self, batch: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of every tensor of a state."""
        layout = [((batch, *layer.shape), self.dtype) for layer in self.spiking.values()]
        if self.stack > 1:
            history = (batch, self.stack - 1, *self.input_shape)
            layout.insert(0, (history, torch.uint8 if self.pixels else self.dtype))
        return layout

    def forward(
        self,
        x: Tensor,
        state: State,
        episode_start: Tensor | None = None,
        *,
        timesteps: int | None = None,
        carry_membrane: bool | None = None,
        on_current: CurrentHook | None = None,
        on_spikes: SpikeHook | None = None,
    ) -> tuple[Tensor, State]:
        """Run a sequence of frames.

        Args:
            x: [frames, batch, *input_shape]; uint8 for pixels, else float32.
            state: from `initial_state` or an earlier call, for the same batch size.
            episode_start: bool [frames, batch]; that row's state begins anew before that frame.
            timesteps: spiking steps per frame; any T runs on the same parameters. By default the
                network's own; an ANN ignores it.
            carry_membrane: False has all membranes begin anew before every frame. By default
                likewise.
            on_current: called as (layer, current, membrane, resets) before a layer spikes; may
                change its threshold. current is [frames, 1 or timesteps, batch, ...].
            on_spikes: called as (layer, spikes [frames, timesteps, batch, ...]) after it.

        Returns:
            output [frames, batch, outputs], the mean over the timesteps of the last layer's
            output, and the state after the last frame.

        Raises:
            ValueError: shapes that do not fit each other or the network, or neither the call nor
                the network says how to run its spikes.
        """
        timesteps, carry_membrane = self._how(timesteps, carry_membrane)
        frames, batch = self._check(x, state, episode_start, timesteps)
        resets = episode_start
        if not carry_membrane:
            resets = torch.ones(frames, batch, dtype=torch.bool, device=x.device)
        values, state = self._run(x, state, episode_start, resets, timesteps, on_current, on_spikes)
        return values[self.nodes[-1].name].mean(1), state

    def _how(self, timesteps: int | None, carry_membrane: bool | None) -> tuple[int, bool]:
        """T and carry of a call."""
        if not self.spiking:
            return 1, True
        timesteps = self.timesteps if timesteps is None else timesteps
        carry_membrane = self.carry_membrane if carry_membrane is None else carry_membrane
        if timesteps is None or carry_membrane is None:
            raise ValueError(
                "this spiking network does not know how it is run: pass timesteps= and "
                "carry_membrane=, or set them on the network"
            )
        return timesteps, carry_membrane

    def _run(
        self,
        x: Tensor,
        state: State,
        episode_start: Tensor | None,
        resets: Tensor | None,
        timesteps: int,
        on_current: CurrentHook | None,
        on_spikes: SpikeHook | None,
    ) -> tuple[dict[str, Tensor], State]:
        """Values of all nodes, each [frames, 1 or timesteps, batch, ...], and the new state."""
        membranes = list(state)
        if self.stack > 1:
            x, membranes[0] = stack_frames(x, state[0], episode_start, self.offset)
        new_state = membranes[: self.stack > 1]
        remaining = iter(membranes[self.stack > 1 :])

        values: dict[str, Tensor] = {}
        for node in self.nodes:
            inputs = [values[name] for name in node.inputs]
            if isinstance(node.operation, operations.Input):
                value = scale_pixels(x, self.offset).to(self.dtype).unsqueeze(1)
            elif isinstance(node.operation, operations.LIF):
                value, membrane = self._spike(
                    node.name, inputs[0], next(remaining), resets, timesteps, on_current
                )
                new_state.append(membrane)
                if on_spikes is not None:
                    on_spikes(node.name, value)
            else:
                value = self._evaluate(node, inputs)
            values[node.name] = value
        return values, tuple(new_state)

    def _spike(
        self,
        name: str,
        current: Tensor,
        membrane: Tensor,
        resets: Tensor | None,
        timesteps: int,
        on_current: CurrentHook | None,
    ) -> tuple[Tensor, Tensor]:
        if on_current is not None:
            on_current(name, current, membrane, resets)
        layer: Any = self.layers[name]
        return lif_scan(
            current,
            membrane,
            layer.threshold,
            layer.leak,
            resets,
            timesteps=timesteps,
            surrogate=self.surrogate,
            start=layer.start,
        )

    def _read_out(self, node: Node, x: Tensor) -> Tensor:
        """Last linear layer on the summed spikes: exact on the weight grid, one pass for all T."""
        layer: Any = self.layers[node.name]
        steps = x.shape[1]
        if steps == 1:
            result: Tensor = layer(x)
            return result
        total = functional.linear(x.sum(1), layer.weight)
        bias = 0 if layer.bias is None else steps * layer.bias
        return ((total + bias) / steps).unsqueeze(1)

    def _evaluate(self, node: Node, inputs: list[Tensor]) -> Tensor:
        """One layer without state on values [frames, 1 or timesteps, batch, ...]."""
        if isinstance(node.operation, operations.Linear):
            if node is self.nodes[-1]:
                return self._read_out(node, inputs[0])
            if self.reads_observation(node):
                return self._read_observation(node, inputs[0])
        layer = dict(self.layers).get(node.name)
        return execute.run(node.operation, layer, inputs, self.training)

    def _read_observation(self, node: Node, x: Tensor) -> Tensor:
        """Linear layer on float observations, which lie on no grid. In float64 its few terms sum
        to the same float32 in any order, so that engines and batch sizes agree."""
        layer: Any = self.layers[node.name]
        bias = None if layer.bias is None else layer.bias.double()
        return functional.linear(x.double(), layer.weight.double(), bias).to(x.dtype)

    def _check(
        self, x: Tensor, state: State, episode_start: Tensor | None, timesteps: int
    ) -> tuple[int, int]:
        if x.dim() < 2 or tuple(x.shape[2:]) != self.input_shape:
            raise ValueError(
                f"input is {tuple(x.shape)}; expected (frames, batch, "
                f"{', '.join(map(str, self.input_shape))})"
            )
        wanted = torch.uint8 if self.pixels else self.dtype
        if x.dtype != wanted:
            raise ValueError(f"input is {x.dtype}; expected {wanted}")
        if timesteps < 1:
            raise ValueError(f"timesteps must be at least 1, not {timesteps}")
        frames, batch = int(x.shape[0]), int(x.shape[1])
        if frames < 1:
            raise ValueError("input holds 0 frames; expected at least 1")
        given = [tuple(tensor.shape) for tensor in state]
        expected = [shape for shape, _ in self._state_layout(batch)]
        if given != expected:
            raise ValueError(
                f"state holds tensors of shape {given}; expected {expected} for a batch of "
                f"{batch}: use initial_state({batch})"
            )
        if episode_start is not None and episode_start.shape != (frames, batch):
            raise ValueError(
                f"episode_start is {tuple(episode_start.shape)}; expected {(frames, batch)}"
            )
        if episode_start is not None and episode_start.dtype != torch.bool:
            raise ValueError(f"episode_start is {episode_start.dtype}; expected {torch.bool}")
        return frames, batch

    def stacked_shape(self) -> tuple[int, ...]:
        """Shape of the first layer's input: stacked frames side by side on the first axis."""
        return (self.stack * self.input_shape[0], *self.input_shape[1:])

    def on_stacks(self) -> Network:
        """This network, parameters shared, for frames that `stack_at` has stacked already."""
        plain = copy.copy(self)
        plain.stack, plain.input_shape, plain.pixels = 1, self.stacked_shape(), False
        return plain

    def clone(self) -> Network:
        """An independent copy with the same parameters."""
        return copy.deepcopy(self)


def assemble(nodes: list[Node], layers: Mapping[str, nn.Module], like: Network) -> Network:
    """Network of `nodes` with the parameters that `layers` holds for them; surrogate, T, carry,
    mode and device are those of `like`."""
    network = Network(nodes, like.surrogate)
    network.timesteps, network.carry_membrane = like.timesteps, like.carry_membrane
    for name, layer in network.layers.items():
        if name in layers:
            layer.load_state_dict(layers[name].state_dict())
    device = next((p.device for layer in layers.values() for p in layer.parameters()), None)
    return network.to(device).train(like.training)
