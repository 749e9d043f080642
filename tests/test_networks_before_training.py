"""What cannot be trained or converted in the end is refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from short_runs import TINY
from torch import nn

import snn_rl
from snn_rl.errors import SnnRlError

Factory = Callable[[tuple[int, ...], int], Any]

UNFIT: dict[str, Factory] = {
    "gives values of shape (3,) for 2 actions": lambda shape, actions: nn.Sequential(
        nn.Linear(shape[0], 8), nn.ReLU(), nn.Linear(8, actions + 1)
    ),
    "cannot be traced": lambda shape, actions: nn.Sequential(
        nn.Linear(shape[0] + 1, 8), nn.ReLU(), nn.Linear(8, actions)
    ),
    "gave a str, not a torch module": lambda shape, actions: "a network",
}
NOT_CONVERTIBLE: dict[str, Factory] = {
    "'_2' (BatchNorm) must directly follow": lambda shape, actions: nn.Sequential(
        nn.Linear(shape[0], 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, actions)
    ),
    "needs at least one ReLU": lambda shape, actions: nn.Sequential(
        nn.Linear(shape[0], 8), nn.Linear(8, actions)
    ),
    "must end in a Linear or Conv2d layer": lambda shape, actions: nn.Sequential(
        nn.Linear(shape[0], 8), nn.ReLU(), nn.Linear(8, actions), nn.ReLU()
    ),
}


def refused(folder: Path, factory: Factory | None, **changes: Any) -> str:
    with pytest.raises(SnnRlError) as caught:
        snn_rl.train(TINY | changes, run_dir=folder / "run", q_network=factory)
    assert list(folder.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("message", UNFIT)
@pytest.mark.parametrize("timesteps", [0, 2])
def test_a_network_that_does_not_fit_is_refused(
    tmp_path: Path, message: str, timesteps: int
) -> None:
    assert message in refused(tmp_path, UNFIT[message], timesteps=timesteps)


@pytest.mark.parametrize("message", NOT_CONVERTIBLE)
def test_a_network_that_cannot_spike_is_refused(tmp_path: Path, message: str) -> None:
    assert message in refused(tmp_path, NOT_CONVERTIBLE[message])


def test_a_teacher_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    def four_features(shape: tuple[int, ...], actions: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, actions))

    assert "cannot be traced" in refused(tmp_path, four_features, teacher="stack:2")
    message = refused(tmp_path, None, teacher="full_state", env="Blackjack-v1")
    assert "Blackjack-v1 reports no info['full_state']" in message
