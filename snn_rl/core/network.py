"""Executes a layer graph: an ANN, or a spiking network with explicit state.

Execution is layer by layer (there is no feedback between layers): each convolution or linear
layer runs once on all frames and timesteps folded into the batch, then the neurons scan over
time. The first layer sees the same frame at every timestep, so it runs once per frame.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.core import graph
from snn_rl.core.graph import Node
from snn_rl.core.neuron import LIF, Surrogate
from snn_rl.core.scan import lif_scan
from snn_rl.core.stacking import scale_pixels, stack_frames

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
    """

    def __init__(self, nodes: list[Node], surrogate: Surrogate | None = None) -> None:
        super().__init__()
        graph.check(nodes)
        self.nodes = list(nodes)
        self.surrogate = surrogate or Surrogate()
        built = {node.name: graph.build_module(node) for node in nodes}
        self.layers = nn.ModuleDict({n: layer for n, layer in built.items() if layer is not None})
        self.spiking = {n: layer for n, layer in built.items() if isinstance(layer, LIF)}
        """The spiking layers by name, in order of execution."""
        options = nodes[0].options
        self.input_shape = tuple(int(n) for n in options["shape"])
        self.pixels = bool(options["pixels"])
        self.stack = int(options["stack"])
        self.offset = int(options.get("offset", 0))
        # Values that are the real-valued observation itself, at most reshaped.
        self._observed = set() if self.pixels else {nodes[0].name}
        for node in nodes:
            if node.op in ("flatten", "dropout") and node.inputs[0] in self._observed:
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
        """State at the start of an episode: membranes (and stacked frames) at zero."""
        return tuple(
            torch.zeros(shape, dtype=dtype, device=self.device)
            for shape, dtype in self._state_layout(batch)
        )

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
        timesteps: int = 1,
        carry_membrane: bool = True,
        on_current: CurrentHook | None = None,
        on_spikes: SpikeHook | None = None,
    ) -> tuple[Tensor, State]:
        """Run a sequence of frames.

        Args:
            x: [frames, batch, *input_shape]; uint8 for pixels, else float32.
            state: from `initial_state` or an earlier call, for the same batch size.
            episode_start: bool [frames, batch]; zeroes that row's state before that frame.
            timesteps: spiking steps per frame; any T runs on the same parameters.
            carry_membrane: False zeroes all membranes before every frame.
            on_current: called as (layer, current, membrane, resets) before a layer spikes; may
                change its threshold. current is [frames, 1 or timesteps, batch, ...].
            on_spikes: called as (layer, spikes [frames, timesteps, batch, ...]) after it.

        Returns:
            output [frames, batch, outputs], the mean over the timesteps of the last layer's
            output, and the state after the last frame.

        Raises:
            ValueError: shapes that do not fit each other or the network.
        """
        frames, batch = self._check(x, state, episode_start, timesteps)
        resets = episode_start
        if not carry_membrane:
            resets = torch.ones(frames, batch, dtype=torch.bool, device=x.device)
        values, state = self._run(x, state, episode_start, resets, timesteps, on_current, on_spikes)
        return values[self.nodes[-1].name].mean(1), state

    @torch.no_grad()
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one sample at the output of every node, by node name."""
        dtype = torch.uint8 if self.pixels else self.dtype
        x = torch.zeros(1, 1, *self.input_shape, dtype=dtype, device=self.device)
        was_training = self.training
        values, _ = self.eval()._run(x, self.initial_state(1), None, None, 1, None, None)
        self.train(was_training)
        return {name: tuple(value.shape[3:]) for name, value in values.items()}

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
            if node.op == "input":
                value = scale_pixels(x, self.offset).to(self.dtype).unsqueeze(1)
            elif node.op == "lif":
                value, membrane = self._spike(
                    node.name, inputs[0], next(remaining), resets, timesteps, on_current
                )
                new_state.append(membrane)
                if on_spikes is not None:
                    on_spikes(node.name, value)
            elif node is self.nodes[-1] and node.op == "linear":
                value = self._read_out(node, inputs[0])
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
        if node.op == "add":
            return inputs[0] + inputs[1]
        if node.op == "relu":
            return functional.relu(inputs[0])
        if node.op == "scale":
            scale: Any = self.layers[node.name]
            return inputs[0] * cast(Tensor, scale.weight)
        if node.op == "dropout":
            # One mask per frame, held for all of its timesteps.
            mask = torch.ones_like(inputs[0][:, :1])
            if node.options.get("channels"):
                mask = mask[..., :1, :1]
            return inputs[0] * functional.dropout(mask, node.options["p"], self.training)
        if node.op == "linear":
            return self._linear(node, inputs[0])
        lead = inputs[0].shape[:3]
        result = self._stateless(node, inputs[0].flatten(0, 2))
        return result.reshape(*lead, *result.shape[1:])

    def _linear(self, node: Node, x: Tensor) -> Tensor:
        layer: Any = self.layers[node.name]
        if self.reads_observation(node):
            # Float observations lie on no grid. In float64 the few terms of such a layer sum to
            # the same float32 in any order, so that engines and batch sizes agree.
            bias = None if layer.bias is None else layer.bias.double()
            return functional.linear(x.double(), layer.weight.double(), bias).to(x.dtype)
        result: Tensor = layer(x)
        return result

    def _stateless(self, node: Node, x: Tensor) -> Tensor:
        """One layer on a plain batch [items, ...]."""
        match node.op:
            case "conv" | "batchnorm":
                result: Tensor = self.layers[node.name](x)
                return result
            case "avgpool" | "sumpool":
                # Sums are averages without the division by the window's area.
                divisor = 1 if node.op == "sumpool" else None
                return functional.avg_pool2d(x, **node.options, divisor_override=divisor)
            case "flatten":
                return x.flatten(1)
            case _:
                raise AssertionError(node.op)

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


def assemble(
    nodes: list[Node], layers: Mapping[str, nn.Module], surrogate: Surrogate, training: bool
) -> Network:
    """Network of `nodes` with the parameters that `layers` holds for them."""
    network = Network(nodes, surrogate)
    for name, layer in network.layers.items():
        if name in layers:
            layer.load_state_dict(layers[name].state_dict())
    device = next((p.device for layer in layers.values() for p in layer.parameters()), None)
    return network.to(device).train(training)
