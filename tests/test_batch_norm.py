"""Batch-norm brought back into a converted network for training."""

from __future__ import annotations

import pytest
import torch
from modules import IMAGE, Residual, output, seeded
from torch import Tensor

from snn_rl.conversion.batch_norm import fold_batch_norm, insert_batch_norm
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network


def spiking_network(timesteps: int) -> tuple[Network, Tensor]:
    """A converted residual network and images for it."""
    images = torch.rand(16, *IMAGE, generator=torch.Generator().manual_seed(3)) * 3
    ann = trace(seeded(Residual, 1), IMAGE, pixels=False)
    return convert(ann, Calibration(images[None]), timesteps=timesteps), images


@pytest.mark.parametrize("timesteps", [1, 3])
def test_it_changes_nothing_to_begin_with(timesteps: int) -> None:
    network, images = spiking_network(timesteps)
    normed = insert_batch_norm(network, images[None], timesteps).eval()
    norms = [node.inputs[0] for node in normed.nodes if node.operation.kind == "batchnorm"]
    assert norms == [node.name for node in network.nodes if node.operation.kind == "conv"]
    wanted = output(network, images, timesteps)
    # Rounding may flip a spike where a membrane is at its threshold.
    found = output(normed, images, timesteps)
    assert (found - wanted).abs().median() < 1e-4
    folded = fold_batch_norm(normed)
    assert [node.name for node in folded.nodes] == [node.name for node in network.nodes]
    for name, value in network.state_dict().items():
        torch.testing.assert_close(folded.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_the_data() -> None:
    network, images = spiking_network(2)
    normed = insert_batch_norm(network, images[None], 2)
    before = {n: b.clone() for n, b in normed.named_buffers() if "running" in n}
    normed.train()
    for layer in normed.layers.values():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    output(normed, images, 2)
    for name, buffer in normed.named_buffers():
        if name in before:  # a batch's own variance is the unbiased one
            torch.testing.assert_close(buffer, before[name], rtol=0.02, atol=1e-3)
