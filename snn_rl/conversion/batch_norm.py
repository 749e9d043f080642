"""Batch-norm folded into the weights before it, and brought back for training.

Sources: Ioffe and Szegedy 2015; folding as in Rueckauer et al. 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from snn_rl.core.execute import Weighted, weighted
from snn_rl.core.graph import Node, consumers, rewire
from snn_rl.core.network import Network, assemble
from snn_rl.core.operations import BatchNorm, Conv2d, Linear
from snn_rl.errors import ConversionError


def has_batch_norm(network: Network) -> bool:
    """Whether there is any."""
    return any(isinstance(node.operation, BatchNorm) for node in network.nodes)


def check_batch_norm(network: Network) -> None:
    """Raise ConversionError, naming it, if a batch-norm cannot be folded."""
    with torch.random.fork_rng(devices=[]):
        fold_batch_norm(network)


def fold_batch_norm(network: Network) -> Network:
    """Copy without batch-norm: w <- w*g/sqrt(var+eps), b <- (b-mean)*g/sqrt(var+eps) + beta."""
    nodes, layers = list(network.nodes), dict(network.clone().layers.items())
    while norm := next((node for node in nodes if isinstance(node.operation, BatchNorm)), None):
        (name,) = norm.inputs
        source = next(node for node in nodes if node.name == name)
        if not source.operation.weighted or len(consumers(nodes, name)) != 1:
            raise ConversionError(
                f"'{norm.name}' (BatchNorm) must directly follow one Linear or Conv2d layer"
            )
        _fold(weighted(layers[name]), cast(nn.BatchNorm2d, layers.pop(norm.name)))
        biased = replace(cast(Linear | Conv2d, source.operation), bias=True)
        nodes[nodes.index(source)] = replace(source, operation=biased)
        nodes = [rewire(node, norm.name, name) for node in nodes if node is not norm]
    return assemble(nodes, layers, network)


def _fold(layer: Weighted, norm: nn.BatchNorm2d) -> None:
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    factor = torch.rsqrt(var + norm.eps)
    if norm.affine:
        factor = factor * norm.weight.data
    bias = -mean if layer.bias is None else layer.bias.data - mean
    layer.weight.data *= factor.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.bias = nn.Parameter(bias * factor + (norm.bias.data if norm.affine else 0))


@torch.no_grad()
def insert_batch_norm(
    network: Network, frames: Tensor, timesteps: int, behind: Sequence[str] | None = None
) -> Network:
    """Copy with a batch-norm behind every hidden convolution that changes nothing to begin with.

    Scale and shift begin as the very statistics that they undo, so the network computes the same
    while its running averages count. `fold_batch_norm` reverses it.

    Args:
        frames: [frames, batch, ...], data to measure the statistics on; membranes start at zero.
        timesteps: spiking steps per frame.
        behind: names of other layers to put it behind, convolutions or linear ones.
    """
    if behind is None:
        hidden = [node for node in network.nodes[:-1] if isinstance(node.operation, Conv2d)]
        behind = [node.name for node in hidden]
    measured = _channel_statistics(network, frames, timesteps, behind)
    nodes: list[Node] = []
    layers: dict[str, nn.Module] = dict(network.layers.items())
    renamed: dict[str, str] = {}
    for node in network.nodes:
        for old, new in renamed.items():
            node = rewire(node, old, new)
        nodes.append(node)
        if node.name in measured:
            dimensions = 2 if isinstance(node.operation, Conv2d) else 1
            identity = _identity(*measured[node.name], dimensions)
            operation = BatchNorm(identity.num_features, dimensions=dimensions)
            norm = Node(f"{node.name}_norm", operation, (node.name,))
            nodes.append(norm)
            layers[norm.name] = identity
            renamed[node.name] = norm.name
    return assemble(nodes, layers, network)


def _identity(mean: Tensor, var: Tensor, dimensions: int) -> nn.BatchNorm1d | nn.BatchNorm2d:
    kind = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm1d
    norm = kind(len(mean), device=mean.device)
    cast(Tensor, norm.running_mean).copy_(mean)
    cast(Tensor, norm.running_var).copy_(var)
    norm.weight.copy_((var + norm.eps).sqrt())
    norm.bias.copy_(mean)
    return norm


def _channel_statistics(
    network: Network, frames: Tensor, timesteps: int, layers: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of the output channels of `layers`."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str, output: Tensor) -> None:
        # A linear layer keeps its leading axes, a convolution sees one batch.
        linear = isinstance(network.layers[name], nn.Linear)
        values = output.flatten(0, -2).mT if linear else output.transpose(0, 1).flatten(1)
        found[name] = (values.mean(1), values.var(1, correction=0))

    hooks = [
        network.layers[name].register_forward_hook(lambda _, __, output, n=name: note(n, output))
        for name in layers
    ]
    was_training = network.training
    try:
        state = network.initial_state(frames.shape[1])
        network.eval()(frames, state, timesteps=timesteps, carry_membrane=False)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def measure_batch_norm(network: Network, frames: Tensor) -> None:
    """Set an ANN's running statistics to those of `frames` [1, batch, ...] alone, in place."""
    norms = [layer for layer in network.layers.values() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(frames, network.initial_state(frames.shape[1]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
