"""Narrower networks for images: a share of the channels and hidden units."""

from __future__ import annotations

import pytest

from snn_rl.agents.config import make_config
from snn_rl.agents.presets import with_preset
from snn_rl.agents.qnetwork import build_network
from snn_rl.agents.setup import Setup
from snn_rl.core.operations import Conv2d, Linear
from snn_rl.errors import ConfigError


def sizes(network: object) -> list[int]:
    found = []
    for node in network.nodes:  # type: ignore[attr-defined]
        if isinstance(node.operation, Conv2d):
            found.append(node.operation.out_channels)
        if isinstance(node.operation, Linear):
            found.append(node.operation.out_features)
    return found


@pytest.mark.parametrize(
    ("shape", "width", "expected"),
    [
        ((1, 84, 84), 1.0, [32, 64, 64, 512, 6]),
        ((1, 84, 84), 0.25, [8, 16, 16, 128, 6]),
        ((4, 10, 10), 0.5, [8, 64, 6]),
        ((4, 10, 10), 0.01, [1, 1, 6]),
    ],
)
def test_width_is_a_share_of_channels_and_hidden_units(
    shape: tuple[int, ...], width: float, expected: list[int]
) -> None:
    assert sizes(build_network(shape, 6, stack=1, hidden=[], width=width)) == expected


def test_the_runs_networks_are_narrow_and_its_teacher_is_not() -> None:
    settings = with_preset({"env": "PongNoFrameskip-v4", "width": 0.5, "device": "cpu"})
    setup = Setup(make_config(settings))
    assert sizes(setup.build_ann(1).network) == [16, 32, 32, 256, 6]
    assert sizes(setup.build_teacher().network) == [32, 64, 64, 512, 6]


@pytest.mark.parametrize("width", [0, 1.5])
def test_other_shares_are_refused(width: float) -> None:
    with pytest.raises(ConfigError, match="width"):
        make_config({"env": "PongNoFrameskip-v4", "width": width})
