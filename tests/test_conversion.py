"""Batch-norm folding, threshold balancing, ANN -> SNN."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from modules import FEATURES, IMAGE, Made, Residual, conv, output, seeded
from torch import Tensor, nn

from snn_rl.conversion.batch_norm import fold_batch_norm
from snn_rl.conversion.convert import Calibration, balance, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.graph import Node
from snn_rl.core.network import Network
from snn_rl.errors import ConversionError


def test_batch_norm_with_other_readers_is_refused() -> None:
    """Folding would change what the other reader sees."""
    module = Made(
        lambda m, x: m.b((m.norm(y := m.a(x)) + y).relu()),
        a=nn.Linear(6, 6),
        norm=nn.BatchNorm1d(6),
        b=nn.Linear(6, 3),
    )
    network = trace(module, FEATURES, pixels=False)
    with pytest.raises(ConversionError, match="'norm'"):
        fold_batch_norm(network)


@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_folding_is_exact(bias: bool) -> None:
    network = trace(seeded(lambda: Residual(bias=bias), 3), IMAGE, pixels=False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network, x = network.double().eval(), torch.randn(9, *IMAGE).double()
    wanted = output(network, x)
    folded = fold_batch_norm(network.float())
    assert not [node for node in folded.nodes if node.operation.kind == "batchnorm"]
    torch.testing.assert_close(output(folded, x.float()), wanted.float(), rtol=1e-4, atol=1e-5)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was changed"


def test_average_pools_of_spikes_become_sums() -> None:
    """The 1/area moves into the reader; pools of real values stay averages."""
    module = seeded(
        lambda: nn.Sequential(
            nn.AvgPool2d(2),
            conv(),
            nn.ReLU(),
            nn.AvgPool2d((1, 2)),
            nn.AvgPool2d((2, 1)),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        4,
    )
    network = trace(module, IMAGE, pixels=False)
    x = torch.rand(50, *IMAGE)
    options = NeuronOptions(percentile=99.0)
    snn = convert(network, Calibration(x[None]), timesteps=64, options=options)
    assert [node.operation.kind for node in snn.nodes if "pool" in node.operation.kind] == [
        "avgpool",
        "sumpool",
        "sumpool",
    ]
    reader: Any = snn.layers["_6"]
    source: Any = network.layers["_6"]
    amplitude = float(next(iter(snn.spiking.values())).threshold.detach())
    torch.testing.assert_close(reader.weight, source.weight * amplitude / 4)
    torch.testing.assert_close(reader.bias, source.bias)
    wanted = output(network, x)
    assert float((output(snn, x, 256) - wanted).norm() / wanted.norm()) < 0.05


def block(*, wide: bool, bias: bool, channels: int = 6) -> nn.Module:
    """One residual block with an identity or a convolutional shortcut, all batch-normalised."""
    out, stride = (2 * channels, 2) if wide else (channels, 1)
    shortcut: nn.Module = nn.Identity()
    if wide:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride=2, bias=bias), nn.BatchNorm2d(out)
        )
    return Made(
        lambda m, x: m.fc(
            m.pool((m.bn(m.conv(y := m.stem(x).relu())) + m.shortcut(y)).relu()).flatten(1)
        ),
        stem=nn.Sequential(
            nn.Conv2d(2, channels, 3, padding=1, bias=bias), nn.BatchNorm2d(channels)
        ),
        conv=nn.Conv2d(channels, out, 3, padding=1, stride=stride, bias=bias),
        bn=nn.BatchNorm2d(out),
        shortcut=shortcut,
        pool=nn.AvgPool2d(2),
        fc=nn.Linear(out * (4 if wide else 16), 5),
    )


def test_random_networks_approach_their_ann() -> None:
    """Batch-norm, biases, both kinds of shortcut: <= 5 % error and >= 95 % agreement at T=256.

    Over all inputs of all networks; the error of every single one falls with T.
    """
    wrong, size, agree = 0.0, 0.0, []
    for seed in range(6):
        wide, bias = seed % 2 == 0, seed % 3 != 0
        module = seeded(lambda wide=wide, bias=bias: block(wide=wide, bias=bias), seed)  # type: ignore[misc]
        network = trace(module, IMAGE, pixels=False)
        x = torch.rand(100, *IMAGE, generator=torch.Generator().manual_seed(seed))
        wanted = output(network, x)
        options = NeuronOptions(percentile=99.0)
        snn = convert(network, Calibration(x[None]), timesteps=64, options=options)
        errors = []
        for timesteps in (64, 256):
            got = output(snn, x, timesteps)
            errors.append(float((got - wanted).norm() / wanted.norm()))
        assert errors[0] > 2 * errors[1] and errors[1] < 0.08, errors
        wrong += float((got - wanted).square().sum())
        size += float(wanted.square().sum())
        agree.append(float((got.argmax(1) == wanted.argmax(1)).float().mean()))
    assert (wrong / size) ** 0.5 <= 0.05
    assert sum(agree) / len(agree) >= 0.95, agree


def spiking_mlp(timesteps: int, x: Tensor, **how: Any) -> Network:
    ann = trace(
        seeded(
            lambda: nn.Sequential(
                nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3)
            ),
            5,
        ),
        FEATURES,
        pixels=False,
    )
    return convert(ann, Calibration(x, how.pop("start", None)), timesteps=timesteps, **how)


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("percentile", [50.0, 90.0])
def test_threshold_is_the_percentile_of_the_membranes(carry: bool, percentile: float) -> None:
    """At T=1 a first layer's membranes are its input, plus what is carried."""
    x = torch.randn(30, 4, 6, generator=torch.Generator().manual_seed(1))
    start = torch.rand(30, 4, generator=torch.Generator().manual_seed(2)) < 0.2
    options = NeuronOptions(leak_low=0.5, leak_high=0.5, percentile=percentile)
    snn = spiking_mlp(1, x, start=start, carry_membrane=carry, options=options)
    name, layer = next(iter(snn.spiking.items()))
    first: Any = snn.layers["_0"]
    current = first(x).detach()
    if not carry:
        membranes = current
    else:  # the membranes under the provisional threshold, the percentile of the input
        provisional = torch.quantile(
            current[current > 0], percentile / 100, interpolation="nearest"
        )
        u, steps = torch.zeros(4, 20), []
        for f in range(30):
            u = u.masked_fill(start[f][:, None], 0) * 0.5 + current[f]
            steps.append(u)
            u = torch.where(u > provisional, u - provisional, u)
        membranes = torch.stack(steps)
    share = float((membranes[membranes > 0] <= layer.threshold.detach()).float().mean())
    assert share == pytest.approx(percentile / 100, abs=0.005), name


@torch.no_grad()
def test_later_layers_are_balanced_on_spikes() -> None:
    x = torch.randn(1, 400, 6, generator=torch.Generator().manual_seed(1))
    snn = spiking_mlp(1, x, options=NeuronOptions(percentile=80.0)).eval()
    currents: dict[str, Tensor] = {}
    snn(x, snn.initial_state(400), on_current=lambda name, i, *_: currents.update({name: i}))
    assert list(currents) == list(snn.spiking)
    for name, current in currents.items():
        share = float((current[current > 0] <= snn.spiking[name].threshold).float().mean())
        assert share == pytest.approx(0.8, abs=0.01), name


def test_a_dead_layer_is_named(caplog: pytest.LogCaptureFixture) -> None:
    ann = trace(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), FEATURES, pixels=False)
    ann.layers["_0"].bias.data.fill_(-100.0)  # type: ignore[union-attr,operator]
    with caplog.at_level(logging.WARNING):
        snn = convert(ann, Calibration(torch.randn(1, 50, 6)), timesteps=4)
    assert [r.getMessage() for r in caplog.records if "_1" in r.getMessage()]
    assert len(caplog.records) == 1
    assert snn.spiking["_1"].threshold.tolist() == pytest.approx([1e-3])


def test_balancing_again_keeps_what_spikes_stand_for() -> None:
    """After the thresholds of a trained network change, weight * amplitude still agree."""
    x = torch.randn(20, 4, 6, generator=torch.Generator().manual_seed(1))
    options = NeuronOptions(threshold="neuron", leak="neuron", leak_low=0.3, leak_high=0.9)
    snn = spiking_mlp(4, x, carry_membrane=True, options=options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in snn.spiking.values():  # as training leaves them: all different
            layer.threshold.mul_(torch.rand(layer.threshold.shape, generator=generator) + 0.5)
    trained = snn.clone()
    balance(snn, Calibration(x), timesteps=1, carry_membrane=True, percentile=60.0)
    readers = {"_1": "_2", "_3": "_4"}
    for name, layer in snn.spiking.items():
        old, new = trained.spiking[name].threshold.detach(), layer.threshold.detach()
        factor = new / old
        torch.testing.assert_close(factor, factor.mean().expand_as(factor))
        assert not 0.99 < float(factor[0]) < 1.01
        reader: Any = snn.layers[readers[name]]
        before: Any = trained.layers[readers[name]]
        torch.testing.assert_close(reader.weight / new, before.weight / old)
        torch.testing.assert_close(reader.bias, before.bias)
        torch.testing.assert_close(layer.leak, trained.spiking[name].leak)


def test_balancing_again_on_the_same_data_changes_little() -> None:
    x = torch.randn(1, 300, 6, generator=torch.Generator().manual_seed(1))
    snn = spiking_mlp(1, x)
    once = {name: float(layer.threshold.detach()) for name, layer in snn.spiking.items()}
    balance(snn, Calibration(x), timesteps=1, carry_membrane=False)
    for name, layer in snn.spiking.items():
        assert float(layer.threshold.detach()) == pytest.approx(once[name], rel=1e-4)


def test_balancing_draws_no_dropout_and_keeps_the_mode() -> None:
    ann = trace(
        nn.Sequential(
            nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
        ),
        FEATURES,
        pixels=False,
    )
    ann.train()
    x = torch.randn(1, 50, 6)
    first, second = (convert(ann, Calibration(x), timesteps=2) for _ in range(2))
    for name, layer in first.spiking.items():
        assert torch.equal(layer.threshold, second.spiking[name].threshold)
    first.train()
    balance(first, Calibration(x), timesteps=2, carry_membrane=False)
    assert first.training


def test_conversion_leaves_the_ann_alone() -> None:
    ann = trace(seeded(Residual, 0), IMAGE, pixels=False)
    before = {name: value.clone() for name, value in ann.state_dict().items()}
    convert(ann, Calibration(torch.rand(1, 4, *IMAGE)), timesteps=2)
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())


@pytest.mark.parametrize(
    "options", [{"leak_low": 0.9, "leak_high": 0.1}, {"leak_high": 1.5}, {"percentile": 0.0}]
)
def test_neuron_options_refuse_nonsense(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        NeuronOptions(**options)  # type: ignore[arg-type]


def test_scale_carries_the_amplitude_into_an_addition() -> None:
    """Numerical contract, 3: an identity shortcut that carries spikes gets the scale v."""
    network = trace(seeded(Residual, 0), IMAGE, pixels=False)
    snn = convert(network, Calibration(torch.rand(1, 20, *IMAGE)), timesteps=8)
    scales = [node for node in snn.nodes if node.operation.kind == "scale"]
    assert [type(node) for node in scales] == [Node]
    scale: Any = snn.layers[scales[0].name]
    assert float(scale.weight.detach()) == pytest.approx(
        float(snn.spiking[scales[0].inputs[0]].threshold.detach())
    )


def test_max_pooling_is_the_or_of_spikes() -> None:
    """Also where it stood before its ReLU in the ANN; saved and loaded, and within the grid."""
    module = nn.Sequential(
        conv(), nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(27, 4)
    )
    network = trace(seeded(lambda: module, 0), IMAGE, pixels=False)
    x = torch.rand(20, *IMAGE)
    snn = convert(network, Calibration(x[None]), timesteps=4)
    kinds = [node.operation.kind for node in snn.nodes]
    assert kinds == ["input", "conv", "lif", "maxpool", "maxpool", "flatten", "linear"]
    state, seen = snn.initial_state(20), {}
    with torch.no_grad():
        q, _ = snn(x[None], state, timesteps=4, on_spikes=seen.__setitem__)
        fired = seen["_2"].bool()
        for side, stride in ((2, 2), (2, 1)):
            windows = fired.unfold(4, side, stride).unfold(5, side, stride)
            fired = windows.flatten(6).any(6)
        (read_out,) = [layer for layer in snn.layers.values() if isinstance(layer, nn.Linear)]
        expected = read_out(fired.float().flatten(3).mean(1))
    torch.testing.assert_close(q, expected)


def test_max_pooling_of_real_values_is_refused_by_name() -> None:
    module = nn.Sequential(nn.MaxPool2d(2), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    network = trace(module, IMAGE, pixels=False)
    with pytest.raises(ConversionError, match="'_0' \\(MaxPool2d\\) pools values that are no"):
        convert(network, Calibration(torch.rand(1, 2, *IMAGE)), timesteps=2)
