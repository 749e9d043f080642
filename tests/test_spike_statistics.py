"""Conversion that sees spikes: batch-norm measured anew on what the spikes bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from modules import FEATURES, IMAGE, Residual, conv, output, seeded
from torch import Tensor, nn

from snn_rl.conversion.batch_norm import measure_batch_norm
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.spike_statistics import normalised_everywhere
from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network


def leaving_norms(network: Network, x: Tensor, timesteps: int) -> dict[str, Tensor]:
    """Mean over the timesteps of what leaves every batch-norm, [channels, values]."""
    found: dict[str, Tensor] = {}

    def note(name: str, values: Tensor) -> None:
        mean = values.unflatten(0, (-1, len(x))).mean(0)
        found[name] = mean.transpose(0, 1).flatten(1)

    for name, layer in network.layers.items():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.register_forward_hook(lambda _, __, y, n=name: note(n, y))
    output(network, x, timesteps)
    return found


def mlp() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU()),
        *(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)),
    )


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize(("build", "shape"), [(Residual, IMAGE), (mlp, FEATURES)])
def test_every_channel_has_its_mean_and_spread_in_the_ann(
    build: Callable[[], nn.Module], shape: tuple[int, ...], timesteps: int
) -> None:
    """Whether or not the ANN has batch-norm of its own."""
    x = torch.rand(200, *shape, generator=torch.Generator().manual_seed(0))
    ann = trace(seeded(build, 0), shape, pixels=False)
    spiking = convert(ann, Calibration(x[None]), timesteps=timesteps, fold=False, remeasure=True)
    found = leaving_norms(spiking, x, timesteps)
    wanted = leaving_norms(normalised_everywhere(ann, x[None]), x, 1)
    assert found.keys() == wanted.keys() and len(found) > 1
    for name, value in found.items():
        torch.testing.assert_close(value.mean(1), wanted[name].mean(1), rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(value.std(1), wanted[name].std(1), rtol=1e-2, atol=1e-3)


def test_folded_it_computes_the_same() -> None:
    x = torch.rand(60, *IMAGE, generator=torch.Generator().manual_seed(0))
    ann = trace(seeded(Residual, 2), IMAGE, pixels=False)
    folded, kept = (convert(ann, Calibration(x[None]), timesteps=2, fold=f) for f in (True, False))
    kinds = {node.operation.kind for node in folded.nodes}
    assert "batchnorm" not in kinds
    # Rounding may flip a spike where a membrane is at its threshold.
    assert (output(folded, x, 2) - output(kept, x, 2)).abs().median() < 1e-4


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_deep_network_stays_near_its_ann_at_one_timestep(batch_norm: bool) -> None:
    """Where the ANN's statistics let spikes drift away."""

    def deep() -> nn.Module:
        layers: list[nn.Module] = []
        for index in range(5):
            norm = nn.BatchNorm2d(24) if batch_norm else nn.Identity()
            layers += [conv(24 if index else 2, 24), norm, nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 64, 10))

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(300, *IMAGE, generator=generator)
    x = x * 3 * torch.rand(300, 2, 1, 1, generator=generator)
    ann = trace(seeded(deep, 0), IMAGE, pixels=False)
    measure_batch_norm(ann, x[None])
    wanted = centred(output(ann.eval(), x))
    likeness = []
    for remeasure in (False, True):
        options = NeuronOptions(percentile=75.0)
        spiking = convert(
            ann, Calibration(x[None]), timesteps=1, options=options, remeasure=remeasure
        )
        found = centred(output(spiking, x))
        likeness.append(float((found * wanted).sum() / (found.norm() * wanted.norm())))
    assert likeness[1] > 1.5 * likeness[0] > 0, likeness


def centred(values: Tensor) -> Tensor:
    return values - values.mean(0)


@pytest.mark.parametrize(("batch_norm", "remeasured"), [(True, True), (False, False)])
def test_by_default_networks_with_batch_norm_are_measured_anew(
    batch_norm: bool, remeasured: bool
) -> None:
    norm = nn.BatchNorm1d(8) if batch_norm else nn.Identity()
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), norm, nn.ReLU())
    ann = trace(seeded(lambda: nn.Sequential(*module, nn.Linear(8, 3)), 0), FEATURES, pixels=False)
    data = Calibration(torch.rand(1, 50, 6))
    found = convert(ann, data, timesteps=1).state_dict()
    wanted = convert(ann, data, timesteps=1, remeasure=remeasured).state_dict()
    other = convert(ann, data, timesteps=1, remeasure=not remeasured).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not all(torch.equal(found[name], other[name]) for name in wanted)


def test_a_channel_that_no_spike_reaches_stays_finite() -> None:
    ann = trace(seeded(mlp, 0), FEATURES, pixels=False)
    first: Any = ann.layers["_0"]
    first.bias.data.fill_(-100.0)
    x = torch.rand(50, 6)
    spiking = convert(ann, Calibration(x[None]), timesteps=1, remeasure=True)
    assert all(bool(value.isfinite().all()) for value in spiking.state_dict().values())


def test_weights_in_front_of_batch_norm_keep_their_size_in_the_ann() -> None:
    """An optimiser whose updates have a fixed size then changes both alike."""
    x = torch.rand(60, *IMAGE, generator=torch.Generator().manual_seed(0))
    ann = trace(seeded(Residual, 2), IMAGE, pixels=False)
    spiking = convert(ann, Calibration(x[None]), timesteps=1, fold=False)
    for node in spiking.nodes:
        if node.operation.kind == "conv":
            found, wanted = (n.layers[node.name].weight.norm() for n in (spiking, ann))  # type: ignore[union-attr,operator]
            torch.testing.assert_close(found, wanted)
