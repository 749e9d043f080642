"""Tracing torch modules, batch-norm folding, threshold balancing, ANN -> SNN."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.conversion import Calibration, NeuronOptions, balance, convert, fold_batch_norm
from snn_rl.errors import ConversionError
from snn_rl.graph import Node
from snn_rl.network import Network
from snn_rl.tracing import trace


class Made(nn.Module):
    """A module from layers and a forward function."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Residual(nn.Module):
    """conv-bn-relu, then a block with identity shortcut, one with a 1x1 convolution, a pool."""

    def __init__(self, channels: int = 6, *, bias: bool = True, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, channels, 3, padding=1, bias=bias)
        self.bn0 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, padding=1, stride=2, bias=bias)
        self.bn2 = nn.BatchNorm2d(2 * channels)
        self.short = nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=bias)
        self.bn3 = nn.BatchNorm2d(2 * channels)
        self.relu = nn.ReLU(inplace=inplace)
        self.pool = nn.AvgPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(2 * channels * 4, 24)
        self.drop = nn.Dropout(0.3)
        self.fc2 = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn0(self.stem(x)))
        x = self.relu(self.bn1(self.conv1(x)) + x)
        x = self.relu(self.bn2(self.conv2(x)) + self.bn3(self.short(x)))
        x = self.flatten(self.pool(x))
        return self.fc2(self.drop(self.relu(self.fc1(x))))


def random_statistics(module: nn.Module, seed: int) -> nn.Module:
    """Random biases and batch-norm parameters and statistics, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.3, 0.3),
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.1, 0.5),
            ):
                tensor.data.uniform_(low, high, generator=generator)  # type: ignore[union-attr]
        elif isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            layer.bias.data.uniform_(-0.3, 0.3, generator=generator)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    return module.eval()


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return random_statistics(build(), seed)


@torch.no_grad()
def output(network: Network, x: Tensor, timesteps: int = 1) -> Tensor:
    y, _ = network(x[None], network.initial_state(len(x)), timesteps=timesteps)
    return y[0]


def conv(inputs: int = 2, outputs: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


IMAGE, FEATURES = (2, 8, 8), (6,)
SUPPORTED: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "sequential": (
        FEATURES,
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)),
    ),
    "functional relu": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.b(functional.relu(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3)
        ),
    ),
    "relu method, flatten method, float": (
        IMAGE,
        lambda: Made(
            lambda m, x: m.b(m.a(x.float()).relu().flatten(1)), a=conv(), b=nn.Linear(192, 3)
        ),
    ),
    "torch.relu, torch.flatten, functional pool and dropout": (
        IMAGE,
        lambda: Made(
            lambda m, x: m.b(
                functional.dropout(
                    torch.flatten(
                        functional.avg_pool2d(torch.relu(m.a(x)), 2, stride=2), start_dim=1
                    ),
                    0.2,
                    training=False,
                )
            ),
            a=conv(),
            b=nn.Linear(48, 3),
        ),
    ),
    "batch-norm 1d, twice": (
        FEATURES,
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        ),
    ),
    "identity": (
        FEATURES,
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Identity(), nn.ReLU(), nn.Linear(8, 3)),
    ),
    "convolution options": (
        IMAGE,
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
            nn.ReLU(),
            nn.AvgPool2d((2, 3), stride=(1, 2)),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
    ),
    "residual": (IMAGE, Residual),
    "residual, in place": (IMAGE, lambda: Residual(bias=False, inplace=True)),
    "relu in place before a shortcut": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.c(m.relu(m.b(m.relu(y := m.a(x))) + y)),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 8),
            c=nn.Linear(8, 3),
            relu=nn.ReLU(inplace=True),
        ),
    ),
    "value added to itself": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.b((y := m.a(x).relu()) + y), a=nn.Linear(6, 8), b=nn.Linear(8, 3)
        ),
    ),
    "shared layer and awkward names": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.items(m.values(m.values(x).relu()).relu()),
            values=nn.Linear(6, 6),
            items=nn.Linear(6, 3),
        ),
    ),
    "a branch that leads nowhere": (
        FEATURES,
        lambda: Made(
            lambda m, x: (m.c(x), m.b(m.a(x).relu()))[1],
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 3),
            c=nn.Linear(6, 3),
        ),
    ),
    "factor on the input": (
        FEATURES,
        lambda: Made(
            lambda m, x: m.b(m.a(0.5 * (x / 4)).relu()), a=nn.Linear(6, 8), b=nn.Linear(8, 3)
        ),
    ),
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_traced_equals_module(name: str) -> None:
    shape, build = SUPPORTED[name]
    module = seeded(build, 1)
    network = trace(module, shape, pixels=False)
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0))
    wanted = module(x.clone()).detach()
    torch.testing.assert_close(output(network, x), wanted, rtol=1e-5, atol=1e-5)
    # ... and converts to spikes that approach it
    snn = convert(
        network, Calibration(x[None]), timesteps=64, options=NeuronOptions(percentile=99.0)
    )
    error = (output(snn, x, 256) - wanted).norm() / wanted.norm()
    assert error < 0.15, f"relative error {error:.3f}"


@pytest.mark.parametrize("divides", [True, False])
def test_traced_pixels_equal_module(divides: bool) -> None:
    module = seeded(
        lambda: Made(
            lambda m, x: m.b(m.a(x / 255 if divides else x * (1 / 255)).relu().flatten(1)),
            a=conv(),
            b=nn.Linear(192, 3),
        ),
        2,
    )
    network = trace(module, IMAGE, pixels=True)
    x = torch.randint(0, 256, (5, *IMAGE), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        output(network, x.to(torch.uint8)), module(x.float()).detach(), rtol=1e-5, atol=1e-5
    )


def test_traced_stack_equals_module_on_stacked_frames() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 2)), 0)
    network = trace(module, (3,), pixels=False, stack=3)
    x = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0))
    y, _ = network(x, network.initial_state(4))
    torch.testing.assert_close(y[2], module(torch.cat(list(x), 1)))


def test_tracing_copies() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    network = trace(module, FEATURES, pixels=False)
    before = output(network, torch.ones(1, 6))
    for parameter in module.parameters():
        parameter.data.zero_()
    assert torch.equal(output(network, torch.ones(1, 6)), before)


def two_inputs() -> nn.Module:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    return Two()


def bare_parameter() -> nn.Module:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.offset

    return Bare()


def within(layer: nn.Module) -> Callable[[], nn.Module]:
    """The layer after a linear one."""
    return lambda: nn.Sequential(nn.Linear(6, 6), layer, nn.ReLU(), nn.Linear(6, 3))


def inside(forward: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """The function after a linear layer."""
    return lambda: Made(
        lambda m, x: m.b(forward(m.a(x)).relu()), a=nn.Linear(6, 6), b=nn.Linear(6, 3)
    )


def images(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(conv(), nn.ReLU(), *layers, nn.Flatten(), nn.Linear(48, 3))


REFUSED: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    r"'2' \(MaxPool2d\)": (IMAGE, images(nn.MaxPool2d(2))),
    "max_pool2d": (
        IMAGE,
        lambda: Made(lambda m, x: functional.max_pool2d(m.a(x).relu(), 2), a=conv()),
    ),
    r"'1' \(Sigmoid\)": (FEATURES, within(nn.Sigmoid())),
    r"\(Softmax\)": (FEATURES, within(nn.Softmax(1))),
    r"\(softmax\)": (FEATURES, inside(lambda x: torch.softmax(x, 1))),
    r"\(LayerNorm\)": (FEATURES, within(nn.LayerNorm(6))),
    r"\(GRU\)": (FEATURES, lambda: Made(lambda m, x: m.rnn(x)[0], rnn=nn.GRU(6, 6))),
    r"\(tanh\)": (FEATURES, inside(torch.tanh)),
    "data-dependent branch": (FEATURES, inside(lambda x: x if x.sum() > 0 else -x)),
    "more than one input": (FEATURES, two_inputs),
    "'offset' is used as a bare parameter": (FEATURES, bare_parameter),
    "multiplication or division inside": (FEATURES, inside(lambda x: x * 2)),
    "with a constant": (FEATURES, inside(lambda x: x + 1)),
    "addition with a factor": (FEATURES, inside(lambda x: torch.add(x, x, alpha=2))),
    "padding or ceil_mode": (IMAGE, images(nn.AvgPool2d(2, padding=1, stride=2))),
    "divisor_override": (IMAGE, images(nn.AvgPool2d(2, divisor_override=1))),
    "circular padding": (
        IMAGE,
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding_mode="circular"), nn.ReLU()),
    ),
    "Flatten that keeps axes": (IMAGE, images(nn.Flatten(2))),
    "must return one tensor": (
        FEATURES,
        lambda: Made(lambda m, x: (m.a(x), x), a=nn.Linear(6, 3)),  # type: ignore[arg-type,return-value]
    ),
    "one of several uses of the input": (
        FEATURES,
        lambda: Made(lambda m, x: m.a(x / 2) + m.b(x), a=nn.Linear(6, 3), b=nn.Linear(6, 3)),
    ),
    "unusual parameters": (
        FEATURES,
        lambda: nn.Sequential(
            nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU()
        ),
    ),
    "unusual parameters'?": (
        FEATURES,
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU()),
    ),
    r"'_1' \(BatchNorm\) must directly follow": (
        FEATURES,
        lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)),
    ),
    r"must end in a Linear or Conv2d": (
        FEATURES,
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU()),
    ),
    "needs at least one ReLU": (FEATURES, lambda: nn.Sequential(nn.Linear(6, 8))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_converted_is_named(message: str) -> None:
    shape, build = REFUSED[message]
    with pytest.raises(ConversionError, match=message) as error:
        convert(
            trace(build().eval(), shape, pixels=False),
            Calibration(torch.rand(1, 2, *shape)),
            timesteps=1,
        )
    assert "\n" not in str(error.value)


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
    assert not [node for node in folded.nodes if node.op == "batchnorm"]
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
    assert [node.op for node in snn.nodes if "pool" in node.op] == ["avgpool", "sumpool", "sumpool"]
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
    scales = [node for node in snn.nodes if node.op == "scale"]
    assert [type(node) for node in scales] == [Node]
    scale: Any = snn.layers[scales[0].name]
    assert float(scale.weight.detach()) == pytest.approx(
        float(snn.spiking[scales[0].inputs[0]].threshold.detach())
    )
