"""Batch-norm that sees spikes: its statistics are measured on what the spikes bring.

An ANN's running statistics describe its real-valued activations. Behind binary spikes the same
layer receives another mean and spread, and deep layers drift until they fall silent or saturate.
Measured anew, layer by layer with the layers before it already spiking, batch-norm gives every
channel the mean and spread that it has in the ANN on the same data. Layers without batch-norm are
given one for the purpose. As T grows, all corrections vanish.

Related: statistics corrected on data after quantisation (Nagel et al. 2019, section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from snn_rl.conversion.batch_norm import insert_batch_norm
from snn_rl.core.graph import consumers
from snn_rl.core.network import Network
from snn_rl.core.operations import BatchNorm

LARGEST_GAIN = 10.0
"""A channel's spread changes by so much at most: where hardly a spike arrives, it tells nothing."""

Statistics = tuple[Tensor, Tensor]
"""Mean and standard deviation by channel."""


def normalised_everywhere(ann: Network, frames: Tensor) -> Network:
    """Copy of an ANN with a batch-norm behind every hidden layer that lacks one.

    The new ones change nothing: scale and shift are the statistics on `frames`
    [frames, batch, ...]. A linear layer that reads the observation itself sees no spikes and gets
    none.
    """
    normed = {
        node.name
        for node in ann.nodes
        if any(isinstance(c.operation, BatchNorm) for c in consumers(ann.nodes, node.name))
    }
    bare = [n.name for n in ann.nodes[:-1] if n.operation.weighted and n.name not in normed]
    return insert_batch_norm(ann, frames, 1, bare) if bare else ann


@torch.no_grad()
def entering_statistics(
    ann: Network, frames: Tensor, episode_start: Tensor | None = None
) -> dict[str, Statistics]:
    """Statistics of what enters every batch-norm of an ANN on `frames` [frames, batch, ...]."""
    found: dict[str, Statistics] = {}

    def note(name: str, norm: nn.Module, values: Tensor) -> None:
        found[name] = _statistics(values)

    was_training = ann.training
    with _watched(ann.eval(), note):
        ann(frames, ann.initial_state(frames.shape[1]), episode_start)
    ann.train(was_training)
    return found


@contextmanager
def statistics_of_spikes(
    network: Network, wanted: Mapping[str, Statistics], frames: int, batch: int
) -> Iterator[None]:
    """While open, every batch-norm of `network` sets its statistics by what enters it, in place.

    The network is run meanwhile, in evaluation mode, on `frames` of `batch` each; layers that come
    later see the corrected values. What leaves a batch-norm then has the mean and spread of the
    ANN. Over the timesteps of a frame it is the mean that counts, since that approaches the ANN's
    value.

    Args:
        wanted: of the ANN on the same data, from `entering_statistics`.
    """

    def correct(name: str, norm: nn.Module, values: Tensor) -> None:
        means = values.reshape(frames, -1, batch, *values.shape[1:]).mean(1).flatten(0, 1)
        _correct(cast(nn.BatchNorm2d, norm), wanted[name], _statistics(means))

    with _watched(network, correct):
        yield


@contextmanager
def _watched(network: Network, note: Any) -> Iterator[None]:
    """Call note(name, norm, values [items, channels, ...]) before every batch-norm runs."""
    hooks = [
        layer.register_forward_pre_hook(lambda norm, inputs, n=name: note(n, norm, inputs[0]))
        for name, layer in network.layers.items()
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _statistics(values: Tensor) -> Statistics:
    channels = values.transpose(0, 1).flatten(1)
    return channels.mean(1), channels.std(1, correction=0)


@torch.no_grad()
def _correct(norm: nn.BatchNorm2d, wanted: Statistics, found: Statistics) -> None:
    """Running statistics under which values of statistics `found` leave `norm` as values of
    statistics `wanted` did before."""
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    deviation = (var + norm.eps).sqrt()
    ratio = (found[1] / wanted[1]).nan_to_num(1.0).clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    shift = (wanted[0] - mean) / deviation
    mean.copy_(found[0] - shift * deviation * ratio)
    var.copy_(((deviation * ratio).square() - norm.eps).clamp_min(0))


@torch.no_grad()
def restore_scales(network: Network, ann: Network) -> None:
    """Give weights in front of a batch-norm their size in the ANN back, in place.

    Folded amplitudes change it. The batch-norm undoes any factor, so the network computes the same;
    but updates of a fixed size, as Muon's, then change its layers as much as the ANN's.
    """
    for node in network.nodes:
        if isinstance(node.operation, BatchNorm):
            (name,) = node.inputs
            layer, norm = network.weighted(name), network.layers[node.name]
            factor = ann.weighted(name).weight.norm() / layer.weight.norm()
            for parameter in layer.parameters():
                parameter.mul_(factor)
            mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
            mean.mul_(factor)
            eps = cast(float, norm.eps)
            var.add_(eps).mul_(factor**2).sub_(eps).clamp_min_(0)
