"""ANN to SNN: fold batch-norm, replace ReLU by LIF neurons, balance thresholds, fold amplitudes.

Sources: Rueckauer et al. 2017 (batch-norm folding, analog input, percentile thresholds); Chowdhury,
Rathi and Roy 2022, section 4 (90th percentile). A spike of a layer stands for that layer's
threshold, so the threshold is folded forward into the weights that read it; biases stay.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from snn_rl.conversion.batch_norm import fold_batch_norm, has_batch_norm
from snn_rl.conversion.by_channel import (
    channel_factors,
    channel_shape,
    fold_forward,
    percentile_of,
)
from snn_rl.conversion.spike_statistics import (
    entering_statistics,
    normalised_everywhere,
    restore_scales,
    statistics_of_spikes,
)
from snn_rl.conversion.temporal_pruning import rescale_leaks
from snn_rl.core.graph import Node, check, consumers, rewire
from snn_rl.core.network import Network, assemble
from snn_rl.core.neuron import THRESHOLD_FLOOR, lif_step
from snn_rl.core.operations import (
    LIF,
    Add,
    AvgPool2d,
    Granularity,
    MaxPool2d,
    ReLU,
    Scale,
    SumPool2d,
)
from snn_rl.core.surrogates import Surrogate
from snn_rl.errors import ConversionError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NeuronOptions:
    """How the neurons of a converted network start out and what is trainable in them.

    Attributes:
        threshold, leak: one trainable number per layer, channel or neuron.
        leak_low, leak_high: what membranes keep from frame to frame at the start, spread evenly
            over this range: leak ** timesteps. A network without memory across frames takes 1 and
            1; carried membranes need less than 1.
        percentile: of the positive values on the calibration data, see `balance`.
        balance: one percentile per layer, or one per channel, which suits conversion without
            training; then there are thresholds per channel at least.
        start: thresholds that membranes begin with: 0, or 0.5, which halves the rounding of a
            conversion without training (Bu et al. 2022) where membranes are not carried.
        surrogate: gradient of the spike.
    """

    threshold: Granularity = "layer"
    leak: Granularity = "layer"
    leak_low: float = 1.0
    leak_high: float = 1.0
    percentile: float = 90.0
    balance: Literal["layer", "channel"] = "layer"
    start: float = 0.0
    surrogate: Surrogate = field(default_factory=Surrogate)

    def __post_init__(self) -> None:
        if not 0 <= self.leak_low <= self.leak_high <= 1:
            raise ValueError("leaks must satisfy 0 <= leak_low <= leak_high <= 1")
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile must lie in (0, 100], not {self.percentile}")
        if self.start not in (0.0, 0.5):
            raise ValueError(f"membranes start at 0 or 0.5 thresholds, not {self.start}")
        if self.balance == "channel" and self.threshold == "layer":
            raise ValueError("balance per channel needs threshold 'channel' or 'neuron'")


@dataclass(frozen=True)
class Calibration:
    """Real data to balance thresholds on: frames [frames, batch, ...] as the network reads them.

    `episode_start` is bool [frames, batch]; static images are the case of one frame.
    """

    frames: Tensor
    episode_start: Tensor | None = None

    def on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Frames and starts on a device."""
        start = self.episode_start
        return self.frames.to(device), None if start is None else start.to(device)


def convert(
    ann: Network,
    calibration: Calibration,
    *,
    timesteps: int,
    carry_membrane: bool = False,
    options: NeuronOptions | None = None,
    fold: bool = True,
    remeasure: bool | None = None,
) -> Network:
    """Spiking network with the weights of `ann`, its thresholds balanced on `calibration`.

    Args:
        timesteps: T that it will be run at; stored in the network, whose calls default to it.
        carry_membrane: whether membranes survive from frame to frame; stored likewise. Static
            images have one frame.
        fold: False keeps batch-norm between layer and neurons, for a network that is trained as a
            spiking one from its first weight on; `fold_batch_norm` folds it afterwards.
        remeasure: batch-norm takes its statistics from the spikes that arrive, layer by layer, and
            layers without it are corrected alike (`snn_rl.conversion.spike_statistics`). By
            default, networks that have batch-norm: without it this helps at few timesteps alone.

    Raises:
        ConversionError: names the layer that cannot be converted.
    """
    options = options or NeuronOptions()
    if remeasure is None:
        remeasure = has_batch_norm(ann)
    measuring: AbstractContextManager[None] = nullcontext()
    if remeasure:
        frames, start = calibration.on(ann.device)
        ann = normalised_everywhere(ann, frames)
        wanted = entering_statistics(ann, frames, start)
    elif fold:
        ann = fold_batch_norm(ann)
    spiking = _replace_activations(ann, options)
    if remeasure:
        measuring = statistics_of_spikes(spiking, wanted, *frames.shape[:2])
    spiking.timesteps, spiking.carry_membrane = timesteps, carry_membrane
    rescale_leaks(spiking, 1, timesteps)
    with measuring:
        balance(
            spiking,
            calibration,
            timesteps=timesteps,
            carry_membrane=carry_membrane,
            percentile=options.percentile,
            by_channel=options.balance == "channel",
        )
    if fold:
        return fold_batch_norm(spiking)
    restore_scales(spiking, ann)
    return spiking


def check_convertible(ann: Network) -> None:
    """Raise ConversionError, naming the layer, if `convert` could not convert `ann`."""
    with torch.random.fork_rng(devices=[]):
        _replace_activations(fold_batch_norm(ann), NeuronOptions())


def _replace_activations(ann: Network, options: NeuronOptions) -> Network:
    """ReLU -> LIF, average-pool -> sum-pool, a scale wherever spikes enter an addition."""
    amplitude: dict[str, bool] = {}  # does this value count spikes that stand for a threshold?
    nodes: list[Node] = []
    layers = dict(ann.layers.items())
    before = _activations_before_pooling(ann.nodes)
    shapes = check(before)
    for node in before:
        operation = node.operation
        if isinstance(operation, ReLU):
            operation = LIF(shapes[node.name], options.threshold, options.leak, options.start)
        elif isinstance(operation, AvgPool2d) and amplitude[node.inputs[0]]:
            operation = SumPool2d(operation.kernel_size, operation.stride)
        elif isinstance(operation, MaxPool2d) and not amplitude[node.inputs[0]]:
            raise ConversionError(
                f"'{node.name}' (MaxPool2d) pools values that are no spikes: put it behind a ReLU"
            )
        node = replace(node, operation=operation)
        scaled = isinstance(operation, Add | LIF)
        for name in [n for n in dict.fromkeys(node.inputs) if scaled and amplitude[n]]:
            factors = channel_shape(shapes[name]) if options.balance == "channel" else None
            scale = Node(f"{node.name}_{name}", Scale(factors), (name,))
            nodes.append(scale)
            node = rewire(node, name, scale.name)
        amplitude[node.name] = isinstance(operation, LIF) or (
            operation.counts_spikes and amplitude[node.inputs[0]]
        )
        nodes.append(node)
    last = nodes[-1].operation
    spikes = any(isinstance(node.operation, LIF) for node in nodes)
    if not (spikes and (last.weighted or isinstance(last, Add))):
        raise ConversionError(
            "a spiking network needs at least one ReLU and must end in a Linear or Conv2d layer"
        )
    network = assemble(nodes, layers, ann)
    network.surrogate = options.surrogate
    for node in nodes:
        if isinstance(node.operation, SumPool2d):
            fold_forward(network, node.name, torch.tensor(1 / node.operation.area))
    for layer in network.spiking.values():
        layer.spread_leak(options.leak_low, options.leak_high)
    return network


def _activations_before_pooling(nodes: list[Node]) -> list[Node]:
    """The same with max-pooling behind its ReLU where it stood before it: both give the maximum
    of the positive values, but behind neurons it is the OR of their spikes."""
    result = list(nodes)
    for index, pool in enumerate(nodes):
        readers = consumers(nodes, pool.name)
        if not isinstance(pool.operation, MaxPool2d) or len(readers) != 1:
            continue
        (activation,) = readers
        if isinstance(activation.operation, ReLU):
            result = [rewire(node, activation.name, pool.name) for node in result]
            result[index] = replace(activation, inputs=pool.inputs)
            result[nodes.index(activation)] = replace(pool, inputs=(activation.name,))
    return result


def balance(
    network: Network,
    calibration: Calibration,
    *,
    timesteps: int,
    carry_membrane: bool,
    percentile: float = 90.0,
    by_channel: bool = False,
) -> None:
    """Set every threshold from data and fold the change forward, first layer first.

    A layer's threshold is the given percentile of its positive pre-reset membranes, with the
    layers before it already spiking. These membranes depend on the threshold through the reset;
    the provisional threshold under which they are measured is the same percentile of a frame's
    mean weighted input (at T = 1 without carried membranes both are the same). `by_channel` takes
    this mean's percentile itself, of every channel alone.

    Call it also to re-balance a trained network, e.g. when T drops: folding keeps what a spike
    stands for, and the ratios between thresholds of one layer are kept (`by_channel`: of one
    channel).
    """
    frames, start = calibration.on(network.device)
    if any(layer.start for layer in network.spiking.values()):
        # The first frame, too, begins with thresholds that are being set.
        none = torch.zeros(frames.shape[:2], dtype=torch.bool, device=network.device)
        start = none if start is None else start.clone()
        start[0] = True

    def set_threshold(name: str, current: Tensor, membrane: Tensor, resets: Tensor | None) -> None:
        layer = network.spiking[name]
        before = layer.threshold.detach().clone()
        if by_channel:
            factor = channel_factors(current, before, percentile)
        else:
            provisional = percentile_of(current.mean(1) / before, percentile)
            layer.threshold.copy_(before * provisional)
            layer.constrain()
            pre_reset = _pre_reset_membranes(layer, current, membrane, resets, timesteps)
            factor = before.new_tensor(percentile_of(pre_reset / before, percentile))
        lowest = THRESHOLD_FLOOR / before.min()
        if bool((factor < lowest).any()):
            factor = factor.maximum(lowest)
            log.warning(
                "layer %s hardly receives positive input on the calibration data; its threshold "
                "is floored at %g",
                name,
                THRESHOLD_FLOOR,
            )
        layer.threshold.copy_(before * factor)
        fold_forward(network, name, factor)

    was_training = network.training
    with torch.no_grad():
        network.eval()(
            frames,
            network.initial_state(frames.shape[1]),
            start,
            timesteps=timesteps,
            carry_membrane=carry_membrane,
            on_current=set_threshold,
        )
    network.train(was_training)


def _pre_reset_membranes(
    layer: Any, current: Tensor, membrane: Tensor, resets: Tensor | None, timesteps: int
) -> Tensor:
    """All membranes just before the reset, [frames, timesteps, batch, ...]."""
    result = current.new_empty(current.shape[0], timesteps, *current.shape[2:])
    extra = [1] * (membrane.dim() - 1)
    for f in range(current.shape[0]):
        if resets is not None:
            anew = layer.start * layer.threshold
            membrane = torch.where(resets[f].view(-1, *extra), anew, membrane)
        for t in range(timesteps):
            now = current[f, min(t, current.shape[1] - 1)]
            _, membrane, result[f, t] = lif_step(now, membrane, layer.threshold, layer.leak)
    return result
