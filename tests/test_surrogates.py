"""Surrogates: each trains with its own gradient on every path; cards name them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from networks import mlp
from short_runs import Watcher, short
from torch import Tensor

import snn_rl
from snn_rl.agents.run import Interrupted, Run
from snn_rl.core import kernels
from snn_rl.core.scan import IN_KERNELS, lif_scan
from snn_rl.core.surrogates import SHIPPED, Shipped, Surrogate, arctan
from snn_rl.errors import SnnRlError


def box(z: Tensor, gamma: float) -> Tensor:
    """gamma where the membrane is within half of the threshold, else 0."""
    return gamma * ((z - 1).abs() < 0.5).to(z.dtype)


def gradients(surrogate: Surrogate, dtype: torch.dtype) -> list[Tensor]:
    """Of the spikes' weighted sum with respect to current, membrane, threshold and leak."""
    generator = torch.Generator().manual_seed(0)
    current = torch.rand(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    leaves = [current, torch.rand(4, 5, generator=generator, dtype=torch.float64)]
    leaves += [torch.full((5,), 0.7, dtype=torch.float64), torch.full((5,), 0.9).double()]
    leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    spikes, final = lif_scan(*leaves, timesteps=2, surrogate=surrogate)
    weights = torch.rand(spikes.shape, generator=generator, dtype=torch.float64).to(dtype)
    return list(torch.autograd.grad((spikes * weights).sum() + final.sum(), leaves))


def test_gamma_has_one_default_per_surrogate() -> None:
    assert (Surrogate("triangle").gamma, Surrogate("arctan").gamma) == (0.3, 2.0)
    assert {name: gamma for name, (_, gamma) in SHIPPED.items()} == {"triangle": 0.3, "arctan": 2.0}


def test_one_s_own_gradient_is_the_same_fused_or_not() -> None:
    """Float32 on the CPU is where the fused kernels run; float64 never uses them."""
    own = Surrogate("box", 0.8, box)
    single, double = gradients(own, torch.float32), gradients(own, torch.float64)
    for one, other in zip(single, double, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)
    for one, other in zip(single, gradients(Surrogate("arctan"), torch.float32), strict=True):
        assert not torch.allclose(one, other)


def test_a_shipped_gradient_under_another_name_is_the_kernels() -> None:
    copied = gradients(Surrogate("copy", 2.0, arctan), torch.float32)
    for one, other in zip(copied, gradients(Surrogate("arctan"), torch.float32), strict=True):
        torch.testing.assert_close(one, other)


def test_one_shipped_later_trains_with_its_own_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels know the first two: whatever else is shipped goes another way."""
    monkeypatch.setitem(SHIPPED, "box", (box, 0.8))
    for one, other in zip(
        gradients(Surrogate("box"), torch.float32),
        gradients(Surrogate("another", 0.8, box), torch.float32),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_settings_can_name_what_is_shipped() -> None:
    assert set(get_args(Shipped)) == set(SHIPPED)


@pytest.mark.parametrize(("number", "kind"), list(enumerate(IN_KERNELS)))
def test_the_kernels_know_surrogates_by_number(number: int, kind: str) -> None:
    assert number == {"triangle": kernels.TRIANGLE, "arctan": kernels.ARCTAN}[kind]


def test_a_shipped_name_keeps_its_meaning() -> None:
    with pytest.raises(ValueError, match="'arctan' is shipped"):
        Surrogate("arctan", 2.0, box)


def test_a_run_with_one_s_own_is_saved_acts_and_asks_for_it_to_train_on(tmp_path: Path) -> None:
    config = short(timesteps=1)
    own = Surrogate("box", 0.8, box)
    snn_rl.train(config, run_dir=tmp_path / "run", surrogate=own)
    agent = snn_rl.load_agent(tmp_path / "run" / "T1")
    assert agent.policy.network.surrogate == own
    assert agent.act(np.zeros(4, np.float32)) in (0, 1)
    again = short(timesteps=1, start=str(tmp_path / "run" / "T1"), teacher="zoo:CartPole-v1/ann")
    with pytest.raises(SnnRlError, match=r"the surrogate 'box' is not known here.*surrogate="):
        snn_rl.train(again, run_dir=tmp_path / "more")
    agents = snn_rl.train(again, run_dir=tmp_path / "more", surrogate=own)
    assert agents["T1"].policy.network.surrogate.function is box


class Impatient(Watcher):
    """Stops a run in its first spiking stage."""

    def should_stop(self) -> bool:
        return any(progress.stage == "T1" for progress in self.seen)


def test_a_stopped_first_spiking_stage_asks_for_it(tmp_path: Path) -> None:
    """The stage has no card yet: its saved state names the surrogate."""
    config = short(timesteps=1, spiking={"steps": 512}, save_every=0)
    own = Surrogate("box", 0.8, box)

    def run(surrogate: Surrogate | None, monitor: Watcher) -> Run:
        return Run(config, tmp_path / "run", monitor, surrogate=surrogate)

    with pytest.raises(Interrupted, match="T1"):
        run(own, Impatient()).train()
    asked = r"T1 trains with the surrogate 'box' \(gamma 0.8\): to go on, pass surrogate="
    for wrong in (None, Surrogate("box", 0.5, box)):
        with pytest.raises(SnnRlError, match=asked):
            run(wrong, Watcher()).train()
    agents = run(own, Watcher()).train()
    assert agents["T1"].policy.network.surrogate == own


def test_learning_calls_it() -> None:
    called: list[int] = []

    def counted(z: Tensor, gamma: float) -> Tensor:
        called.append(z.numel())
        return box(z, gamma)

    network = mlp()
    network.surrogate = Surrogate("counted", 1.0, counted)
    q, _ = network(torch.rand(2, 3, 3), network.initial_state(3), timesteps=2)
    q.sum().backward()
    frames, batch, timesteps = 2, 3, 2
    neurons = sum(layer.size for layer in network.spiking.values())
    assert sum(called) == frames * batch * timesteps * neurons
