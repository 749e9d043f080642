"""Loss, learning rate and optimiser of a stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

from snn_rl.core.network import Network
from snn_rl.core.neuron import SpikingLayer
from snn_rl.core.operations import Dropout
from snn_rl.vision.config import StageConfig
from snn_rl.vision.muon import Muon

STEP_DIVISOR = 5.0


def loss_of(logits: Tensor, labels: Tensor, teacher: Tensor | None, config: StageConfig) -> Tensor:
    """Cross-entropy with the labels, and with a teacher's softened logits where it is given.

    loss = (1 - d) * CE(labels) + d * t^2 * KL(teacher / t || logits / t)   (Hinton et al. 2015)

    Args:
        logits, teacher: [batch, classes], float32.
        labels: int64 [batch], or shares of the classes [batch, classes].
    """
    loss = functional.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    if teacher is None or config.distill == 0:
        return loss
    t = config.temperature
    soft = functional.kl_div(
        functional.log_softmax(logits / t, 1),
        functional.log_softmax(teacher / t, 1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - config.distill) * loss + config.distill * t * t * soft


def rate_factor(config: StageConfig, progress: float) -> float:
    """Learning rate at `progress` (0 to 1) through the stage, as a share of the highest."""
    if progress < config.warmup:
        return max(progress / config.warmup, 1e-3)
    if config.schedule == "onecycle":
        return (1 - progress) / (1 - config.warmup)
    passed = sum(progress >= milestone for milestone in config.milestones)
    return float(STEP_DIVISOR**-passed)


def make_optimizer(network: Network, config: StageConfig) -> Optimizer:
    """Optimiser whose groups hold their highest rate as `base_rate`.

    Weights decay; biases, batch-norm, thresholds and leaks do not.
    """
    kinds: dict[str, list[nn.Parameter]] = {"conv": [], "linear": [], "bias": [], "neuron": []}
    for layer in network.layers.values():
        for parameter in layer.parameters():
            kinds[_kind(layer, parameter)].append(parameter)
    rates = {
        "conv": config.learning_rate,
        "linear": config.linear_learning_rate or config.learning_rate,
        "bias": config.bias_learning_rate or config.learning_rate,
        "neuron": config.neuron_learning_rate or config.learning_rate,
    }
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if kind in ("conv", "linear") else 0.0,
            "base_rate": rates[kind],
        }
        | ({"orthogonal": kind == "conv"} if config.optimizer == "muon" else {})
        for kind, parameters in kinds.items()
        if parameters
    ]
    rate = config.learning_rate
    if config.optimizer == "muon":
        return Muon(groups, rate)
    if config.optimizer == "adam":
        return Adam(groups, lr=rate, amsgrad=True, fused=True)
    return SGD(groups, lr=rate, momentum=0.9, nesterov=True, fused=True)


def _kind(layer: nn.Module, parameter: nn.Parameter) -> str:
    if isinstance(layer, SpikingLayer):
        return "neuron"
    if isinstance(layer, nn.Conv2d | nn.Linear) and parameter.dim() > 1:
        return "conv" if isinstance(layer, nn.Conv2d) else "linear"
    return "bias"


def set_rate(optimizer: Optimizer, factor: float) -> None:
    """Learning rate of every group: its highest one times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * factor


def set_dropout(network: Network, probability: float) -> None:
    """Probability of every dropout in `network`, in place."""
    network.nodes = [
        replace(node, operation=Dropout(probability))
        if isinstance(node.operation, Dropout)
        else node
        for node in network.nodes
    ]


def loss_scaler(precision: torch.dtype, device: torch.device) -> torch.amp.GradScaler:
    """Keeps float16 gradients in range; does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
