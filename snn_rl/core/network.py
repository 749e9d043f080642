"""Executes a layer graph: an ANN, or a spiking network with explicit state.

Execution is layer by layer (there is no feedback between layers): each convolution or linear
layer runs once on all frames and timesteps folded into the batch, then the neurons scan over
time. The first layer sees the same frame at every timestep, so it runs once per frame.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from snn_rl.core import execute, operations, state
from snn_rl.core.execute import Weighted, weighted
from snn_rl.core.graph import Node, check, ranges
from snn_rl.core.neuron import LayerState, SpikingLayer
from snn_rl.core.stacking import scale_pixels, stack_frames
from snn_rl.core.state import Unrolled, check_fit
from snn_rl.core.sums import read_out, read_real
from snn_rl.core.surrogates import Surrogate

State = state.State[Tensor]

CurrentHook = Callable[[str, Tensor, LayerState, Tensor | None], None]
"""Called before a spiking layer runs with its name, weighted input [frames, 1 or timesteps, batch,
...], the neurons' state [batch, ...] and episode starts, bool [frames, batch], or None; it may
change the layer's threshold, which counts from then on."""
SpikeHook = Callable[[str, Tensor], None]
"""Called after a spiking layer ran with its name and its spikes, 0 or 1, [frames, timesteps, batch,
...], in the graph of gradients where there is one."""


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
        self.spiking = {n: layer for n, layer in built.items() if isinstance(layer, SpikingLayer)}
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
        # In a spiking network, also what no neuron turned into spikes since.
        unbounded = {name for name, (largest, _) in ranges(nodes).items() if math.isinf(largest)}
        self._real = unbounded if self.spiking else self._observed
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

    def weighted(self, name: str) -> Weighted:
        """The layer of this name, one with weights. Raises TypeError where it has none."""
        return weighted(self.layers[name])

    def reads_real(self, node: Node) -> bool:
        """Whether a layer reads values that lie on no grid, where sums depend on their order."""
        return node.inputs[0] in self._real

    def constrain(self) -> None:
        """Bring thresholds and leaks back into their range; call after every optimiser step."""
        for layer in self.spiking.values():
            layer.constrain()

    def initial_state(self, batch: int) -> State:
        """State at an episode's start: membranes where they start, and frames of zeros."""
        history = None
        if self.stack > 1:
            shape = (batch, self.stack - 1, *self.input_shape)
            dtype = torch.uint8 if self.pixels else self.dtype
            history = torch.zeros(shape, dtype=dtype, device=self.device)
        layers = {name: layer.initial_state(batch) for name, layer in self.spiking.items()}
        return State(history, layers)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        episode_start: Tensor | None = None,
        *,
        timesteps: int | None = None,
        carry_membrane: bool | None = None,
        on_current: CurrentHook | None = None,
        on_spikes: SpikeHook | None = None,
        on_value: SpikeHook | None = None,
    ) -> tuple[Tensor, State]:
        """Run a sequence of frames.

        Args:
            x: [frames, batch, *input_shape]; uint8 for pixels, else float32.
            state: from `initial_state` or an earlier call, for the same batch size; by default
                that of an episode's start.
            episode_start: bool [frames, batch]; that row's state begins anew before that frame.
            timesteps: spiking steps per frame; any T runs on the same parameters. By default the
                network's own; an ANN ignores it.
            carry_membrane: False has the neurons begin anew before every frame. By default
                likewise.
            on_current: called as (layer, current, its state, resets) before a layer spikes; may
                change its threshold. current is [frames, 1 or timesteps, batch, ...].
            on_spikes: called as (layer, spikes [frames, timesteps, batch, ...]) after it.
            on_value: called as (node, its output [frames, 1 or timesteps, batch, ...]).

        Returns:
            output [frames, batch, outputs], the mean over the timesteps of the last layer's
            output, and the state after the last frame.

        Raises:
            ValueError: shapes that do not fit each other or the network, or neither the call nor
                the network says how to run its spikes.
        """
        timesteps, carry_membrane = self._how(timesteps, carry_membrane)
        if state is None:
            state = self.initial_state(x.shape[1] if x.dim() > 1 else 0)
        frames, batch = self._check(x, state, episode_start, timesteps)
        resets = episode_start
        if not carry_membrane:
            resets = torch.ones(frames, batch, dtype=torch.bool, device=x.device)

        def spike(name: str, current: Tensor, before: LayerState) -> tuple[Tensor, LayerState]:
            if on_current is not None:
                on_current(name, current, before, resets)
            spikes, after = self.spiking[name](current, before, resets, timesteps, self.surrogate)
            if on_spikes is not None:
                on_spikes(name, spikes)
            return spikes, after

        seen, history = self._look(x, state.history, episode_start)
        layers = dict(state.layers)
        values = {self.nodes[0].name: seen}
        for node in self.nodes[1:]:
            inputs = [values[name] for name in node.inputs]
            if node.name in layers:
                value, layers[node.name] = spike(node.name, inputs[0], layers[node.name])
            else:
                value = self._evaluate(node, inputs)
            values[node.name] = value
            if on_value is not None:
                on_value(node.name, value)
        return values[self.nodes[-1].name].mean(1), State(history, layers)

    @property
    def sequential(self) -> bool:
        """Whether frames run one after the other, since layers keep something in between."""
        return bool(self.spiking)

    def unroll(
        self,
        x: Tensor,
        state: State | None,
        episode_start: Tensor | None,
        *,
        timesteps: int | None = None,
        carry_membrane: bool | None = None,
    ) -> Unrolled[Tensor]:
        """Run a segment to learn from; arguments as of `forward`."""
        rates: dict[str, Tensor] = {}

        def observe(layer: str, spikes: Tensor) -> None:
            rates[layer] = spikes.sum(1).mean()

        output, state = self(
            x,
            state,
            episode_start,
            timesteps=timesteps,
            carry_membrane=carry_membrane,
            on_spikes=observe,
        )
        return Unrolled(output, rates, state)

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

    def _look(
        self, x: Tensor, history: Tensor | None, episode_start: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The first node's value, frames beside the ones before them, and the new history."""
        if history is not None:
            x, history = stack_frames(x, history, episode_start, self.offset)
        return scale_pixels(x, self.offset).to(self.dtype).unsqueeze(1), history

    def _evaluate(self, node: Node, inputs: list[Tensor]) -> Tensor:
        """One layer without state on values [frames, 1 or timesteps, batch, ...]."""
        layer, last = dict(self.layers).get(node.name), node is self.nodes[-1]
        if isinstance(layer, nn.Linear):
            x = inputs[0]
            if self.reads_real(node):
                seen = x.double()
                return read_real(layer, seen.mean(1, keepdim=True) if last else seen).to(x.dtype)
            if last and (steps := x.shape[1]) > 1:  # one pass for all timesteps
                return read_out(layer, x.sum(1), steps).unsqueeze(1)
        return execute.run(node.operation, layer, inputs, self.training)

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
        try:
            check_fit(state, self.initial_state(0), batch)
        except ValueError as error:
            raise ValueError(f"{error}: use initial_state({batch})") from None
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
