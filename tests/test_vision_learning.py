"""A classifier's update: losses, rates by kind of parameter, Muon, masks, averages."""

from __future__ import annotations

import pytest
import torch

from snn_rl.conversion.tracing import trace
from snn_rl.conversion.weight_pruning import apply_masks, density, magnitude_masks
from snn_rl.core.network import Network
from snn_rl.support.settings import validate
from snn_rl.vision.averaging import WeightAverage
from snn_rl.vision.config import StageConfig, VisionConfig
from snn_rl.vision.learning import loss_of, make_optimizer, rate_factor
from snn_rl.vision.models import build_model
from snn_rl.vision.muon import Muon, orthogonalised

SHAPE = (3, 16, 16)
NAMES = {"dataset": "cifar10", "model": "small"}


def small() -> Network:
    torch.manual_seed(0)
    return trace(build_model("small", SHAPE, 3).eval(), SHAPE, pixels=True)


def test_masks_keep_the_largest_of_each_layer_s_scale() -> None:
    network = small()
    network.layers["conv2"].weight.data.mul_(100)  # type: ignore[operator, union-attr]
    masks = magnitude_masks(network, 0.1)
    kept = {name: float(mask.float().mean()) for name, mask in masks.items()}
    assert kept["conv2"] < 0.3
    apply_masks(network, masks)
    assert density(network) == pytest.approx(0.1, abs=1e-3)


def test_distillation_ends_where_the_teacher_is() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    labels = torch.tensor([1])
    settings = StageConfig(distill=1.0, temperature=2.0)
    assert float(loss_of(logits, labels, logits.detach(), settings).detach()) == pytest.approx(0)
    plain = loss_of(logits, labels, None, settings)
    assert torch.equal(plain, torch.nn.functional.cross_entropy(logits, labels))


def test_learning_rates() -> None:
    steps = StageConfig(milestones=[0.5, 0.75])
    assert [rate_factor(steps, p) for p in (0, 0.5, 0.8)] == pytest.approx([1, 0.2, 0.04])
    cycle = StageConfig(schedule="onecycle", warmup=0.2)
    assert [rate_factor(cycle, p) for p in (0.1, 0.2, 0.6)] == pytest.approx([0.5, 1, 0.5])
    assert rate_factor(cycle, 0) > 0


def test_only_weights_decay() -> None:
    groups = make_optimizer(small(), StageConfig(weight_decay=0.1)).param_groups
    decay = {p.dim() > 1: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay == {True: 0.1, False: 0.0}
    config = validate(VisionConfig, {**NAMES, "ann": {"weight_decay": 0.1}}, "test")
    assert config.ann.weight_decay == 0.1
    assert config.spiking.weight_decay == config.prune.weight_decay == 0  # not taken over


def test_rates_differ_by_kind_of_parameter() -> None:
    settings = StageConfig(
        optimizer="muon", learning_rate=0.02, linear_learning_rate=0.01, bias_learning_rate=0.005
    )
    groups = make_optimizer(small(), settings).param_groups
    assert [g["base_rate"] for g in groups] == [0.02, 0.01, 0.005]
    assert [g["orthogonal"] for g in groups] == [True, False, False]


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (6, 6)])
def test_muon_s_update_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalised(matrix).float())
    assert float(singular.min()) > 0.5
    assert float(singular.max()) < 1.3


def test_muon_s_other_groups_are_adam_s() -> None:
    start = torch.randn(5, generator=torch.Generator().manual_seed(0))
    mine, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    muon = Muon([{"params": [mine]}], 0.01)
    adam = torch.optim.Adam([theirs], 0.01, betas=(0.9, 0.99))
    for _ in range(5):
        for parameter, optimizer in ((mine, muon), (theirs, adam)):
            optimizer.zero_grad()
            (parameter**2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(mine, theirs)


def test_an_average_of_weights_follows_them() -> None:
    network = small()
    average = WeightAverage(network, 0.5)
    before = network.layers["conv1"].weight.detach().clone()  # type: ignore[union-attr, operator]
    network.layers["conv1"].weight.data.add_(1.0)  # type: ignore[union-attr, operator]
    average.update(network)
    after = average.applied(network).layers["conv1"].weight
    keep = 1 / 11  # young averages forget faster
    torch.testing.assert_close(after, before + 1 - keep)
    fresh = WeightAverage(network, 0.5).applied(network).state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in network.state_dict().items())
