"""ANN to SNN: fold batch-norm, replace ReLU by LIF neurons, balance thresholds, fold amplitudes.

Sources: Rueckauer et al. 2017 (batch-norm folding, analog input, percentile thresholds); Chowdhury,
Rathi and Roy 2022, section 4 (90th percentile). A spike of a layer stands for that layer's
threshold, so the threshold is folded forward into the weights that read it; biases stay.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snn_rl.conversion.batch_norm import check_batch_norm, fold_batch_norm, has_batch_norm
from snn_rl.conversion.by_channel import (
    channel_factors,
    channel_shape,
    fold_forward,
    percentile_of,
)
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.spike_statistics import (
    entering_statistics,
    normalised_everywhere,
    restore_scales,
    statistics_of_spikes,
)
from snn_rl.conversion.temporal_pruning import rescale_leaks
from snn_rl.conversion.tracing import check_finite
from snn_rl.core.graph import Node, check, consumers, rewire
from snn_rl.core.network import Network, assemble
from snn_rl.core.neuron import THRESHOLD_FLOOR, LayerState
from snn_rl.core.operations import (
    Add,
    AvgPool2d,
    MaxPool2d,
    Neurons,
    Operation,
    ReLU,
    Scale,
    Shape,
    SumPool2d,
)
from snn_rl.errors import ConversionError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """Real data to balance thresholds on; static images are the case of one frame."""

    frames: Tensor
    """[frames, batch, *input_shape] as the network reads them: uint8 0...255 for pixels, else
    float32; a batch entry's frames follow each other in time"""
    episode_start: Tensor | None = None
    """bool [frames, batch]: first frames of episodes, before which membranes begin anew"""

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

    Every ReLU becomes a layer of LIF neurons that reset by subtraction; batch-norm is folded.
    Sources of threshold balancing: Diehl et al. 2015; Sengupta et al. 2019; by percentile,
    Chowdhury, Rathi and Roy 2022.

    Args:
        ann: traced, without neurons; it is not changed.
        calibration: on the network's device.
        timesteps: T >= 1 that it will be run at; stored in the network, whose calls default to it.
        carry_membrane: whether membranes survive from frame to frame; stored likewise. Static
            images have one frame.
        fold: False keeps batch-norm between layer and neurons, for a network that is trained as a
            spiking one from its first weight on; `fold_batch_norm` folds it afterwards.
        remeasure: batch-norm takes its statistics from the spikes that arrive, layer by layer, and
            layers without it are corrected alike (`snn_rl.conversion.spike_statistics`). By
            default, networks that have batch-norm: without it this helps at few timesteps alone.

    Raises:
        ConversionError: names the layer that cannot be converted, or is not finite.
    """
    options = options or NeuronOptions()
    check_finite(ann)
    check_batch_norm(ann)
    if remeasure is None:
        remeasure = has_batch_norm(ann)
    measuring: AbstractContextManager[None] = nullcontext()
    if remeasure:
        frames, start = calibration.on(ann.device)
        ann = normalised_everywhere(ann, frames)
        wanted = entering_statistics(ann, frames, start)
    elif fold:
        ann = fold_batch_norm(ann)
    spiking = _spiking_from(ann, options)
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
        _spiking_from(fold_batch_norm(ann), NeuronOptions())


def _spiking_from(ann: Network, options: NeuronOptions) -> Network:
    """The ANN with neurons in place of its ReLUs, their thresholds still to be balanced."""
    nodes = _spiking_nodes(_activations_before_pooling(ann.nodes), options)
    last = nodes[-1].operation
    spikes = any(isinstance(node.operation, Neurons) for node in nodes)
    if not (spikes and (last.weighted or isinstance(last, Add))):
        raise ConversionError(
            "a spiking network needs at least one ReLU and must end in a Linear or Conv2d layer"
        )
    network = assemble(nodes, dict(ann.layers.items()), ann)
    network.surrogate = options.surrogate
    for node in nodes:
        if isinstance(node.operation, SumPool2d):
            fold_forward(network, node.name, torch.tensor(1 / node.operation.area))
    for layer in network.spiking.values():
        options.initialise(layer)
    return network


def _spiking_nodes(nodes: list[Node], options: NeuronOptions) -> list[Node]:
    """ReLU -> neurons, average-pool -> sum-pool, a scale wherever spikes enter an addition."""
    shapes, result = check(nodes), []
    counts: set[str] = set()  # values that count spikes, each of which stands for a threshold
    for node in nodes:
        operation = _spiking(node, counts, shapes[node.name], options)
        node = replace(node, operation=operation)
        if isinstance(operation, Add | Neurons):
            for name in [name for name in dict.fromkeys(node.inputs) if name in counts]:
                factors = channel_shape(shapes[name]) if options.balance == "channel" else None
                scale = Node(f"{node.name}_{name}", Scale(factors), (name,))
                result.append(scale)
                node = rewire(node, name, scale.name)
        counting = operation.counts_spikes and node.inputs[0] in counts
        if counting or isinstance(operation, Neurons):
            counts.add(node.name)
        result.append(node)
    return result


def _spiking(node: Node, counts: set[str], shape: Shape, options: NeuronOptions) -> Operation:
    """What an operation of the ANN becomes where the values in `counts` count spikes."""
    operation = node.operation
    if isinstance(operation, ReLU):
        return options.neurons(shape)
    if isinstance(operation, AvgPool2d) and node.inputs[0] in counts:
        return SumPool2d(operation.kernel_size, operation.stride)
    if isinstance(operation, MaxPool2d) and node.inputs[0] not in counts:
        raise ConversionError(
            f"'{node.name}' (MaxPool2d) pools values that are no spikes: put it behind a ReLU"
        )
    return operation


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

    def set_threshold(name: str, current: Tensor, state: LayerState, resets: Tensor | None) -> None:
        layer = network.spiking[name]
        before = layer.threshold.detach().clone()
        if by_channel:
            factor = channel_factors(current, before, percentile)
        else:
            provisional = percentile_of(current.mean(1) / before, percentile)
            layer.threshold.copy_(before * provisional)
            layer.constrain()
            pre_reset = layer.pre_reset(current, state, resets, timesteps)
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
            None,
            start,
            timesteps=timesteps,
            carry_membrane=carry_membrane,
            on_current=set_threshold,
        )
    network.train(was_training)
