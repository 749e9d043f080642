"""TD targets: which network values which frames, from which membranes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from segments import (
    BATCH,
    ann_network,
    learner_of,
    losses,
    segment_of,
    slow_return,
    spiking_network,
)
from torch import nn
from torch.nn import functional

from snn_rl.agents.dqn.learner import Learner
from snn_rl.agents.dqn.replay import Segment
from snn_rl.core.network import Network, State
from snn_rl.core.state import leaves, mapped


def td_by_hand(learner: Learner, segment: Segment) -> float:
    """The TD loss from one plain pass of each network over all frames."""
    config, target = learner.config, learner.target
    assert target is not None
    frames, start = torch.from_numpy(segment.frames), torch.from_numpy(segment.start)
    kwargs: dict[str, Any] = {
        "timesteps": learner.targets.run.timesteps,
        "carry_membrane": learner.targets.run.carry_membrane,
    }
    state = segment.state
    if state is None:
        state = learner.network.initial_state(BATCH)
    with torch.no_grad():
        online, _ = learner.network(frames, state, start, **kwargs)
        value, _ = target(frames, state, start, **kwargs)
    found = []
    for f in range(segment.burn_in, len(frames) - config.n_step):
        for b in np.flatnonzero(segment.valid[f]):
            total, discount, index = slow_return(segment, f, int(b), config.n_step, config.gamma)
            chooser = online if config.double else value
            best = int(chooser[index, b].argmax())
            target_value = total + discount * float(value[index, b, best])
            error = abs(float(online[f, b, segment.action[f, b]]) - target_value)
            found.append(error - 0.5 if error > 1 else 0.5 * error**2)
    return float(np.mean(found))


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("kind", ["ann", "T1", "T3", "T2 without carry"])
def test_dqn_loss_is_that_of_a_plain_sequential_pass(
    kind: str, stack: int, burn_in: int, n_step: int, double: bool
) -> None:
    timesteps = 1 if kind == "ann" else int(kind[1])
    network = ann_network(stack) if kind == "ann" else spiking_network(stack, timesteps)
    learner = learner_of(
        network,
        n_step=n_step,
        double=double,
        burn_in=burn_in,
        timesteps=timesteps,
        carry_membrane=kind != "T2 without carry",
    )
    target = learner.target
    assert target is not None
    with torch.no_grad():  # a target network that values and prefers other actions
        for parameter in target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    target.constrain()
    for seed in range(3):
        unknown = max(burn_in, stack - 1)  # frames that fill the stack
        segment = segment_of(unknown + 6 + n_step, seed, burn_in=unknown)
        metrics = losses(learner, segment)[1]
        assert metrics["td"] == pytest.approx(td_by_hand(learner, segment), rel=1e-4)
        state = mapped(torch.rand_like, network.initial_state(BATCH))
        known = replace(segment, state=state, burn_in=burn_in)
        metrics = losses(learner, known)[1]
        assert metrics["td"] == pytest.approx(td_by_hand(learner, known), rel=1e-4)


@pytest.mark.parametrize(("double", "valued"), [(True, 30), (False, 70)])
def test_in_double_dqn_the_online_network_selects(double: bool, valued: float) -> None:
    learner = learner_of(ann_network(), n_step=1, double=double)
    target = learner.target
    assert target is not None
    segment = segment_of(2, ends=0)
    online = [layer for layer in learner.network.layers.values() if isinstance(layer, nn.Linear)]
    frozen = [layer for layer in target.layers.values() if isinstance(layer, nn.Linear)]
    for layers in (online, frozen):
        for layer in layers:
            nn.init.zeros_(layer.weight)
    with torch.no_grad():
        online[-1].bias.copy_(torch.tensor([0.0, 5.0, 1.0]))  # selects action 1
        frozen[-1].bias.copy_(torch.tensor([70.0, 30.0, 50.0]))  # would select action 0
    chosen = online[-1].bias.detach()[torch.from_numpy(segment.action[0])]
    wanted = torch.from_numpy(segment.reward[0]) + 0.99 * valued
    expected = functional.smooth_l1_loss(chosen, wanted)
    assert losses(learner, segment)[1]["td"] == pytest.approx(float(expected), rel=1e-5)


Pass = tuple[torch.nn.Module, int, State | None]


@pytest.fixture
def passes() -> Iterator[list[Pass]]:
    """Every forward pass of any network: which, over how many frames, from which state."""
    seen: list[Pass] = []

    def note(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, Network):
            seen.append((module, len(arguments[0]), (*arguments, None)[1]))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    yield seen
    handle.remove()


def test_target_network_starts_where_the_segment_does(passes: list[Pass]) -> None:
    network = spiking_network()
    learner = learner_of(network, n_step=2, timesteps=2)
    state = mapped(lambda m: torch.full_like(m, 0.5), network.initial_state(BATCH))
    passes.clear()  # those of its calibration
    losses(learner, replace(segment_of(8), state=state))
    of_target = [seen for seen in passes if seen[0] is learner.target]
    of_network = [seen for seen in passes if seen[0] is network]
    assert len(of_target) == 1
    for _, frames, membranes in (of_target[0], of_network[0]):
        assert frames in (6, 8)  # the online network makes a pass of its own over the last two
        assert all(
            torch.equal(*pair) for pair in zip(leaves(membranes), leaves(state), strict=True)
        )


def test_network_without_membranes_is_asked_for_the_frames_that_count_alone(
    passes: list[Pass],
) -> None:
    network = ann_network()
    learner = learner_of(network, n_step=5)
    losses(learner, segment_of(1 + 5))
    assert sum(state is None for _, _, state in passes) == 3  # frame, its bootstrap, twice
    assert [frames for _, frames, _ in passes] == [1, 1, 1]


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["ann", "ann of three frames", "spiking"])
def test_learning_from_many_segments_is_updating_one_by_one(kind: str, double: bool) -> None:
    """Also where the target network is copied between them."""

    def fresh() -> Learner:
        network = ann_network(3 if "three" in kind else 1) if "ann" in kind else spiking_network()
        return learner_of(network, double=double, target_every=3, timesteps=2, learning_rate=0.01)

    one, other = fresh(), fresh()
    before = one.network.stack - 1
    segments = [segment_of(before + 2 + 3, seed, burn_in=before) for seed in range(8)]
    assert one.learn(iter(())) == {}
    numbers = one.learn(iter(segments))
    metrics = [other.learn(iter([segment])) for segment in segments][-1]
    assert one.updates == other.updates == 8
    assert numbers == pytest.approx({name: float(value) for name, value in metrics.items()})
    for found, wanted in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(found, wanted)


def test_one_pass_of_the_target_network_serves_several_updates(passes: list[Pass]) -> None:
    network = ann_network()
    learner = learner_of(network, double=False, target_every=6, n_step=1)
    learner.learn(iter([segment_of(2, seed) for seed in range(8)]))
    # Four and two until the target is copied, two after it; and one each for the network.
    assert len(passes) == 3 + 8
