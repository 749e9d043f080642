"""The Q-learner: masks, burn-in, distillation, rates, optimiser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from segments import (
    ACTIONS,
    BATCH,
    FEATURES,
    ann_network,
    gradients,
    learner_of,
    losses,
    segment_of,
    spiking_network,
)
from torch import Tensor, nn

from snn_rl.agents.dqn.losses import mean_rate
from snn_rl.agents.dqn.replay import Segment
from snn_rl.agents.dqn.spans import bootstrap_frames, spans_of
from snn_rl.agents.policy import Policy
from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network
from snn_rl.core.neuron import THRESHOLD_FLOOR


def changed_dummies(segment: Segment, what: str) -> Segment:
    """The same play with other values in the steps that only reset an environment."""
    values = getattr(segment, what).copy()
    dummy = ~segment.valid
    assert dummy.any()
    values[dummy] = (values[dummy] + 1) % ACTIONS if what == "action" else 50.0
    return replace(segment, **{what: values})


@pytest.mark.parametrize("what", ["reward", "action", "teacher_q"])
@pytest.mark.parametrize("kind", ["ann", "spiking"])
def test_dummy_steps_teach_nothing(kind: str, what: str) -> None:
    network = ann_network() if kind == "ann" else spiking_network()
    learner = learner_of(network, n_step=2, distill=[1, 1], timesteps=2)
    for seed in range(5):
        segment = segment_of(12, seed, burn_in=1)
        changed = changed_dummies(segment, what)
        assert losses(learner, segment)[1] == losses(learner, changed)[1]
        for one, other in zip(
            gradients(learner, segment), gradients(learner, changed), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("what", ["reward", "action", "teacher_q"])
def test_real_steps_do_teach(what: str) -> None:
    learner = learner_of(ann_network(), n_step=2, distill=[1, 1])
    segment = segment_of(12)
    changed = changed_dummies(replace(segment, valid=~segment.valid), what)
    restored = replace(changed, valid=segment.valid)
    assert losses(learner, segment)[1] != losses(learner, restored)[1]


def test_burn_in_builds_up_membranes_without_gradient() -> None:
    network = spiking_network()
    settings: dict[str, Any] = {"td": [0, 0], "distill": [1, 1], "timesteps": 2}
    segment = segment_of(12, ends=0)
    learner = learner_of(network, **settings)
    found = gradients(learner, replace(segment, burn_in=5))

    arrays = {n: value for n, value in vars(segment).items() if isinstance(value, np.ndarray)}
    rest = replace(segment, **{name: value[5:] for name, value in arrays.items()})
    with torch.no_grad():
        _, state = network(
            torch.from_numpy(segment.frames[:5]),
            network.initial_state(BATCH),
            torch.from_numpy(segment.start[:5]),
            timesteps=2,
        )
    same = gradients(learner, replace(rest, state=state))
    for one, other in zip(found, same, strict=True):
        torch.testing.assert_close(one, other)
    # Neither without the membranes that burn-in builds up, nor with its frames as lessons.
    for other_segment in (rest, segment):
        others = gradients(learner, other_segment)
        assert not all(torch.allclose(a, b) for a, b in zip(found, others, strict=True))


def test_stacked_frames_are_there_before_the_first_frame_that_counts() -> None:
    learner = learner_of(ann_network(stack=4), n_step=1)
    assert spans_of(Policy(learner.network), learner.config).burn_in == 3
    segment = segment_of(5, ends=0, burn_in=3)
    segment.start[:] = False
    without_past = replace(segment, frames=segment.frames.copy())
    without_past.frames[:3] = 0
    assert losses(learner, segment)[1] != losses(learner, without_past)[1]


def test_distillation_of_the_own_values_has_no_gradient() -> None:
    network = spiking_network()
    learner = learner_of(network, td=[0, 0], distill=[1, 1], timesteps=2)
    segment = segment_of(6)
    with torch.no_grad():
        q, _ = network(
            torch.from_numpy(segment.frames),
            network.initial_state(BATCH),
            torch.from_numpy(segment.start),
            timesteps=2,
        )
    same = replace(segment, teacher_q=q.numpy())
    metrics = losses(learner, same)[1]
    assert metrics["agreement"] == 1.0
    assert max(float(g.abs().max()) for g in gradients(learner, same)) < 1e-6
    assert max(float(g.abs().max()) for g in gradients(learner, segment)) > 1e-3


def spike_rate(network: Network) -> float:
    rates: dict[str, Tensor] = {}
    segment = segment_of(8, 77)
    with torch.no_grad():
        network(
            torch.from_numpy(segment.frames),
            network.initial_state(BATCH),
            torch.from_numpy(segment.start),
            timesteps=2,
            on_spikes=lambda name, spikes: rates.update({name: spikes.sum(1).mean()}),
        )
    return float(mean_rate(rates, network))


def test_rate_penalty_lowers_spike_rates() -> None:
    rates = {}
    for penalty in (0.0, 3.0):
        network = spiking_network()
        before = spike_rate(network)
        learner = learner_of(
            network,
            td=[0, 0],
            distill=[1, 1],
            rate_penalty=penalty,
            learning_rate=0.01,
            timesteps=2,
        )
        for seed in range(25):
            learner.learn(iter([segment_of(6, seed)]))
        rates[penalty] = spike_rate(network) / before
    assert rates[3.0] < 0.6
    assert rates[3.0] < 0.7 * rates[0.0]


def test_reported_rate_sums_the_timesteps() -> None:
    network = spiking_network()
    with torch.no_grad():
        for layer in network.spiking.values():
            layer.threshold.fill_(THRESHOLD_FLOOR)
            layer.leak.fill_(0)
        for module in network.layers.values():
            if isinstance(module, nn.Linear):
                module.weight.zero_()
                module.bias.fill_(1.0)  # every neuron spikes at every timestep
    learner = learner_of(network, timesteps=4)
    assert losses(learner, segment_of(6))[1]["spike_rate"] == pytest.approx(4.0)


def test_learning_rate_rises_then_falls() -> None:
    learner = learner_of(
        ann_network(), learning_rate=0.1, final_learning_rate=0.2, warmup=4, total_updates=10
    )
    rates = []
    for seed in range(12):
        learner.learn(iter([segment_of(5, seed)]))
        rates.append(learner.optimizer.param_groups[0]["lr"])
    decay = [0.1 * (1 - 0.8 * min(1.0, update / 10)) for update in range(12)]
    warm = [min(1.0, (update + 1) / 5) for update in range(12)]
    np.testing.assert_allclose(rates, np.multiply(decay, warm))
    assert rates[0] < rates[4] > rates[11]
    assert rates[11] == pytest.approx(0.02)


@pytest.mark.parametrize("td", [[0, 1], [1, 0]])
def test_loss_weights_move_from_start_to_end(td: list[float]) -> None:
    learner = learner_of(ann_network(), td=td, total_updates=4)
    segment = segment_of(8)
    found = []
    for _ in range(6):
        loss, metrics = losses(learner, segment)
        weight = float(loss.detach()) / metrics["td"] if "td" in metrics else 0.0
        found.append(weight)
        learner.learn(iter([segment]))  # also where the weight is zero
    expected = [td[0] + (td[1] - td[0]) * min(1.0, update / 4) for update in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_gradients_that_are_not_finite_are_refused(broken: float) -> None:
    network = spiking_network()
    learner = learner_of(network, td=[0, 0], distill=[1, 1], timesteps=2)
    segment = segment_of(6)
    assert segment.teacher_q is not None
    segment.teacher_q[2] = broken
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(FloatingPointError, match="not finite; lower the learning rate"):
        learner.learn(iter([segment]))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_update_moves_thresholds_and_leaks_within_their_range() -> None:
    network = spiking_network()
    learner = learner_of(network, timesteps=2, learning_rate=1e-3)
    before = {name: value.clone() for name, value in network.named_parameters()}
    learner.learn(iter([segment_of(8)]))
    for name, value in network.named_parameters():
        assert not torch.equal(value, before[name]), name
    # Steps far out of range are brought back.
    wild = learner_of(network, timesteps=2, learning_rate=5.0)
    for seed in range(3):
        wild.learn(iter([segment_of(8, seed)]))
    touched = set()
    for layer in network.spiking.values():
        leaks = layer.leak.detach().flatten()
        assert float(layer.threshold.detach().min()) >= np.float32(THRESHOLD_FLOOR)
        assert 0 <= float(leaks.min()) <= float(leaks.max()) <= 1
        touched |= set(leaks.tolist()) & {0.0, 1.0}
    assert touched == {0.0, 1.0}


def test_gradients_are_clipped() -> None:
    learner = learner_of(ann_network(), max_grad_norm=0.01, learning_rate=1e-9)
    segment = segment_of(8)
    norm = torch.stack([g.norm() for g in gradients(learner, segment)]).norm()
    assert norm > 0.1
    learner.learn(iter([segment]))
    clipped = torch.stack([p.grad.norm() for p in learner.parameters if p.grad is not None]).norm()
    assert float(clipped) == pytest.approx(0.01, rel=1e-3)


def test_target_network_is_copied_now_and_then() -> None:
    network = spiking_network()
    learner = learner_of(network, timesteps=2, target_every=3)
    assert learner.target is not None
    equal = []
    for seed in range(7):
        learner.learn(iter([segment_of(8, seed)]))
        old, new = learner.target.state_dict(), network.state_dict()
        equal.append(all(torch.equal(old[name], value) for name, value in new.items()))
    assert equal == [False, False, True, False, False, True, False]


@pytest.mark.parametrize("average", [0.5, 0.75])
def test_kept_weights_are_a_running_mean(average: float) -> None:
    network = spiking_network()
    learner = learner_of(network, timesteps=2, average=average)
    expected: dict[str, Tensor] = {}
    for update in range(6):
        learner.learn(iter([segment_of(8, update)]))
        for name, weight in network.state_dict().items():
            share = max(1 - average, 1 / (update + 1))
            before = expected.get(name, torch.zeros_like(weight))
            expected[name] = before + share * (weight - before)
    assert learner.kept is not network
    for name, mean in learner.kept.state_dict().items():
        torch.testing.assert_close(mean, expected[name])
    moved = [(mean - network.state_dict()[name]).abs().max() for name, mean in expected.items()]
    assert float(max(moved)) > 0


def test_without_averaging_the_trained_weights_are_kept() -> None:
    network = spiking_network()
    assert learner_of(network).kept is network


def test_without_q_learning_there_is_no_target_network_and_no_bootstrap_frame() -> None:
    learner = learner_of(spiking_network(), td=[0, 0], distill=[1, 1], timesteps=2)
    assert learner.target is None
    assert bootstrap_frames(learner.config) == 0
    metrics = losses(learner, segment_of(1, ends=0))[1]
    assert "td" not in metrics
    assert "distill" in metrics


def test_dropout_and_batch_norm_train_in_updates_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, ACTIONS)
    )
    network = trace(module, (FEATURES,), pixels=False)
    learner = learner_of(network)
    assert learner.target is not None
    frames = torch.from_numpy(segment_of(3).frames)

    def play(net: Network) -> Tensor:
        with torch.no_grad():
            q: Tensor = net(frames)[0]
            return q

    assert torch.equal(play(network), play(network))
    means = [value.clone() for name, value in network.named_buffers() if "running_mean" in name]
    play(network)
    learner.learn(iter([segment_of(8)]))
    moved = [value for name, value in network.named_buffers() if "running_mean" in name]
    assert not torch.equal(means[0], moved[0])
    assert torch.equal(play(network), play(network))
    assert torch.equal(play(learner.target), play(learner.target))


def test_learning_fits_the_values_of_a_small_problem() -> None:
    """A corridor of one step: reward 1 for action 0, -1 for others, then the end."""
    learner = learner_of(
        spiking_network(), timesteps=2, n_step=1, learning_rate=0.01, final_learning_rate=1.0
    )
    errors = []
    for seed in range(80):
        segment = segment_of(4, seed, ends=0)
        segment.terminated[:] = True
        reward = np.where(segment.action == 0, 1, -1).astype(np.float32)
        errors.append(learner.learn(iter([replace(segment, reward=reward)]))["td"])
    assert np.mean(errors[-10:]) < 0.3 * np.mean(errors[:5])
