"""Accuracy, spike rates and activation densities of a network on labelled images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from snn_rl.core.network import Network
from snn_rl.vision.data import Source, chunked
from snn_rl.vision.process import Process

BATCH = 250


@dataclass(frozen=True)
class Evaluation:
    """Scores on all images of a split.

    Attributes:
        accuracy: share of images whose largest logit is the label's, 0 to 1.
        loss: mean cross-entropy, nats.
        neuron_rates: spikes per image, summed over the timesteps, of every neuron by layer
            (float64, the layer's shape); empty for an ANN.
    """

    images: int
    accuracy: float
    loss: float
    neuron_rates: dict[str, Tensor] = field(default_factory=dict)

    @property
    def spike_rates(self) -> dict[str, float]:
        """Mean spikes per neuron per image by layer."""
        return {name: float(rate.mean()) for name, rate in self.neuron_rates.items()}


def classify(network: Network, images: Tensor, timesteps: int) -> Tensor:
    """Logits [batch, classes] of uint8 images [batch, channels, height, width]."""
    output, _ = network(
        images[None],
        network.initial_state(len(images)),
        timesteps=timesteps,
        carry_membrane=False,
    )
    logits: Tensor = output[0]
    return logits


@torch.no_grad()
def evaluate(
    network: Network,
    source: Source,
    timesteps: int,
    process: Process,
    *,
    limit: int | None = None,
    mixed: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Scores of `network` on `source`; several processes share the images.

    Args:
        limit: look at so many images only, from the front.
        mixed: in training's precision, instead of float32.
        stopped: asked between batches; True ends early with what was seen.
    """
    network.eval()
    spiking = network.spiking.items()
    rates = {name: torch.zeros(layer.shape, dtype=torch.float64) for name, layer in spiking}

    def count(name: str, spikes: Tensor) -> None:
        rates[name] += spikes[0].sum((0, 1), dtype=torch.float64).cpu()

    total = len(source.labels) if limit is None else min(limit, len(source.labels))
    chunks = chunked(torch.arange(total), BATCH)[process.rank :: process.world]
    sums = torch.zeros(3, dtype=torch.float64)  # images, correct, loss
    for images, labels in source.batches(chunks):
        images, labels = images.to(process.device), labels.to(process.device)
        with process.autocast() if mixed else nullcontext():
            output, _ = network(
                images[None],
                network.initial_state(len(images)),
                timesteps=timesteps,
                carry_membrane=False,
                on_spikes=count,
            )
        logits = output[0].float()
        correct = int((logits.argmax(1) == labels).sum())
        loss = float(functional.cross_entropy(logits, labels, reduction="sum"))
        sums += torch.tensor([len(labels), correct, loss], dtype=torch.float64)
        if stopped():
            break
    seen, correct, loss = process.summed(sums).tolist()
    seen = max(seen, 1)
    return Evaluation(
        images=int(seen),
        accuracy=correct / seen,
        loss=loss / seen,
        neuron_rates={name: process.summed(rate) / seen for name, rate in rates.items()},
    )
