"""The Q-learner: returns, targets, masks, burn-in, distillation, optimiser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.agents.config import LearnerConfig
from snn_rl.agents.learner import Learner, distillation, mean_rate, n_step_returns
from snn_rl.agents.qnetwork import mlp
from snn_rl.agents.replay import Segment
from snn_rl.conversion import Calibration, NeuronOptions, convert
from snn_rl.network import Network
from snn_rl.neuron import THRESHOLD_FLOOR
from snn_rl.tracing import trace

FEATURES, ACTIONS, BATCH = 4, 3, 5


def ann_network(stack: int = 1, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = mlp(FEATURES * stack, [16, 12], ACTIONS)
    return trace(module, (FEATURES,), pixels=False, stack=stack)


def spiking_network(stack: int = 1, timesteps: int = 2) -> Network:
    options = NeuronOptions(leak="neuron", leak_low=0.1, leak_high=0.9)
    frames = torch.from_numpy(np.random.default_rng(9).normal(size=(20, 4, FEATURES)))
    return convert(
        ann_network(stack),
        Calibration(frames.float()),
        timesteps=timesteps,
        carry_membrane=True,
        options=options,
    )


def segment_of(frames: int, seed: int = 0, ends: float = 0.25) -> Segment:
    """Random play, with ends and the dummy steps and starts that follow them."""
    generator = np.random.default_rng(seed)
    shape = (frames, BATCH)
    terminated, truncated, last, start = (np.zeros(shape, np.bool_) for _ in range(4))
    for f in range(frames):
        last[f] = False if f == 0 else terminated[f - 1] | truncated[f - 1]
        start[f] = generator.random(BATCH) < 0.2 if f == 0 else last[f - 1]
        end = (generator.random(BATCH) < ends) & ~last[f]
        kind = generator.random(BATCH) < 0.5
        terminated[f], truncated[f] = end & kind, end & ~kind
    reward = generator.normal(size=shape).astype(np.float32)
    return Segment(
        frames=generator.normal(size=(*shape, FEATURES)).astype(np.float32),
        start=start,
        valid=~last,
        action=generator.integers(ACTIONS, size=shape),
        reward=np.where(last, 0, reward).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        teacher_q=generator.normal(size=(*shape, ACTIONS)).astype(np.float32),
    )


def slow_return(segment: Segment, f: int, b: int, n: int, gamma: float) -> tuple[float, float, int]:
    """Total, discount and bootstrap frame of one n-step return, step by step."""
    total = 0.0
    for k in range(n):
        total += gamma**k * float(segment.reward[f + k, b])
        if segment.terminated[f + k, b]:
            return total, 0.0, 0
        if segment.truncated[f + k, b]:
            return total, gamma ** (k + 1), f + k + 1
    return total, gamma**n, f + n


def learner_of(network: Network, **settings: Any) -> Learner:
    run = {k: settings.pop(k) for k in ("timesteps", "carry_membrane") if k in settings}
    total = settings.pop("total_updates", 100)
    settings = {"n_step": 3, "num_envs": 4, "target_every": 200} | settings
    return Learner(network, LearnerConfig(**settings), total_updates=total, **run)


def gradients(learner: Learner, segment: Segment) -> list[Tensor]:
    learner.network.zero_grad(set_to_none=False)
    loss, _ = learner.loss(segment)
    loss.backward()  # type: ignore[no-untyped-call]
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learner.parameters]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 6),
    more=st.integers(1, 8),
    gamma=st.floats(0, 0.999),
    ends=st.floats(0, 1),
)
def test_n_step_returns(seed: int, n: int, more: int, gamma: float, ends: float) -> None:
    segment = segment_of(n + more, seed, ends)
    value = np.random.default_rng(seed).normal(size=segment.reward.shape)
    found = n_step_returns(segment.reward, segment.terminated, segment.truncated, gamma=gamma, n=n)
    assert found.total.shape == found.discount.shape == found.index.shape == (more, BATCH)
    for f in range(more):
        for b in range(BATCH):
            if not segment.valid[f, b]:
                continue
            total, discount, index = slow_return(segment, f, b, n, gamma)
            target = found.total[f, b] + found.discount[f, b] * value[found.index[f, b], b]
            assert target == pytest.approx(total + discount * value[index, b], abs=1e-4)


def one_step(terminated: bool, truncated: bool) -> Segment:
    segment = segment_of(3, ends=0)
    segment.terminated[0], segment.truncated[0] = terminated, truncated
    return segment


def test_truncation_bootstraps_and_termination_does_not() -> None:
    for terminated, truncated, discount in [(False, True, 0.9), (True, False, 0), (True, True, 0)]:
        s = one_step(terminated, truncated)
        found = n_step_returns(s.reward, s.terminated, s.truncated, gamma=0.9, n=2)
        np.testing.assert_allclose(found.discount[0], discount, rtol=1e-6)
        np.testing.assert_allclose(found.total[0], s.reward[0])
        if discount:
            assert (found.index[0] == 1).all()


def td_by_hand(learner: Learner, segment: Segment) -> float:
    """The TD loss from one plain pass of each network over all frames."""
    config, target = learner.config, learner.target
    assert target is not None
    frames, start = torch.from_numpy(segment.frames), torch.from_numpy(segment.start)
    kwargs: dict[str, Any] = {
        "timesteps": learner.timesteps,
        "carry_membrane": learner.carry_membrane,
    }
    state = segment.state or learner.network.initial_state(BATCH)
    own = target.initial_state(BATCH)
    if target.stack > 1:
        own = (state[0], *own[1:])
    with torch.no_grad():
        online, _ = learner.network(frames, state, start, **kwargs)
        value, _ = target(frames, own, start, **kwargs)
    losses = []
    first = 0 if segment.state is not None else learner.burn_in
    for f in range(first, len(frames) - config.n_step):
        for b in np.flatnonzero(segment.valid[f]):
            total, discount, index = slow_return(segment, f, int(b), config.n_step, config.gamma)
            chooser = online if config.double else value
            best = int(chooser[index, b].argmax())
            target_value = total + discount * float(value[index, b, best])
            error = abs(float(online[f, b, segment.action[f, b]]) - target_value)
            losses.append(error - 0.5 if error > 1 else 0.5 * error**2)
    return float(np.mean(losses))


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
        segment = segment_of(learner.burn_in + 6 + n_step, seed)
        metrics = learner.loss(segment)[1]
        assert metrics["td"] == pytest.approx(td_by_hand(learner, segment), rel=1e-4)
        state = tuple(torch.rand_like(tensor) for tensor in network.initial_state(BATCH))
        known = replace(segment, state=state)
        metrics = learner.loss(known)[1]
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
    assert learner.loss(segment)[1]["td"] == pytest.approx(float(expected), rel=1e-5)


class Spy(Network):
    """Writes down every pass."""

    calls: ClassVar[list[tuple[Network, int, tuple[Tensor, ...]]]] = []

    def forward(self, x: Tensor, state: tuple[Tensor, ...], *rest: Any, **options: Any) -> Any:
        self.calls.append((self, len(x), state))
        return super().forward(x, state, *rest, **options)


def test_target_network_has_membranes_of_its_own() -> None:
    network = spiking_network()
    network.__class__ = Spy
    learner = learner_of(network, n_step=2, timesteps=2)
    state = tuple(torch.full_like(m, 0.5) for m in network.initial_state(BATCH))
    Spy.calls = []
    learner.loss(replace(segment_of(8), state=state))
    of_target = [call for call in Spy.calls if call[0] is learner.target]
    of_network = [call for call in Spy.calls if call[0] is network]
    assert len(of_target) == 1
    _, frames, membranes = of_target[0]
    assert frames == 8
    assert all(not membrane.any() for membrane in membranes)
    assert torch.equal(of_network[0][2][0], state[0])
    known = {id(tensor) for call in of_network for tensor in call[2]}
    assert not known & {id(membrane) for membrane in membranes}


def test_network_without_membranes_is_asked_for_the_frames_that_count_alone() -> None:
    network = ann_network()
    network.__class__ = Spy
    learner = learner_of(network, n_step=5, burn_in=4)
    Spy.calls = []
    learner.loss(segment_of(learner.burn_in + 1 + learner.ahead))
    assert sum(state == () for _, _, state in Spy.calls) == 3  # frame, its bootstrap, twice
    assert [frames for _, frames, _ in Spy.calls] == [1, 1, 1]


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
    learner = learner_of(network, n_step=2, distill=[1, 1], burn_in=1, timesteps=2)
    for seed in range(5):
        segment = segment_of(12, seed)
        changed = changed_dummies(segment, what)
        assert learner.loss(segment)[1] == learner.loss(changed)[1]
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
    assert learner.loss(segment)[1] != learner.loss(restored)[1]


def test_burn_in_builds_up_membranes_without_gradient() -> None:
    network = spiking_network()
    settings: dict[str, Any] = {"td": [0, 0], "distill": [1, 1], "timesteps": 2}
    segment = segment_of(12, ends=0)
    found = gradients(learner_of(network, burn_in=5, **settings), segment)

    arrays = {name: value for name, value in vars(segment).items() if value is not None}
    rest = replace(segment, **{name: value[5:] for name, value in arrays.items()})
    with torch.no_grad():
        _, state = network(
            torch.from_numpy(segment.frames[:5]),
            network.initial_state(BATCH),
            torch.from_numpy(segment.start[:5]),
            timesteps=2,
        )
    plain = learner_of(network, **settings)
    same = gradients(plain, replace(rest, state=state))
    for one, other in zip(found, same, strict=True):
        torch.testing.assert_close(one, other)
    # Neither without the membranes that burn-in builds up, nor with its frames as lessons.
    for other_segment in (rest, segment):
        others = gradients(plain, other_segment)
        assert not all(torch.allclose(a, b) for a, b in zip(found, others, strict=True))


def test_stacked_frames_are_there_before_the_first_frame_that_counts() -> None:
    learner = learner_of(ann_network(stack=4), n_step=1, burn_in=1)
    assert learner.burn_in == 3
    segment = segment_of(5, ends=0)
    segment.start[:] = False
    without_past = replace(segment, frames=segment.frames.copy())
    without_past.frames[:3] = 0
    assert learner.loss(segment)[1] != learner.loss(without_past)[1]


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
    metrics = learner.loss(same)[1]
    assert metrics["agreement"] == 1.0
    assert max(float(g.abs().max()) for g in gradients(learner, same)) < 1e-6
    assert max(float(g.abs().max()) for g in gradients(learner, segment)) > 1e-3


def test_distillation_is_the_cross_entropy_at_a_temperature() -> None:
    q, teacher_q = torch.randn(2, 4, 7, ACTIONS).unbind()
    for temperature in (0.1, 1.0, 5.0):
        found = distillation(q, teacher_q, temperature)
        wanted = torch.distributions.Categorical(logits=teacher_q / temperature)
        got = torch.distributions.Categorical(logits=q / temperature)
        divergence = torch.distributions.kl_divergence(wanted, got)
        entropy = wanted.entropy()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(found, divergence + entropy)


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
            learner.update(segment_of(6, seed))
        rates[penalty] = spike_rate(network) / before
    assert rates[3.0] < 0.6
    assert rates[3.0] < 0.7 * rates[0.0]


def test_mean_rate_counts_neurons_not_layers() -> None:
    network = spiking_network()
    first, second = network.spiking
    rates = {first: torch.tensor(0.5), second: torch.tensor(0.1)}
    expected = (16 * 0.5 + 12 * 0.1) / 28
    assert float(mean_rate(rates, network)) == pytest.approx(expected)


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
    assert learner.loss(segment_of(6))[1]["spike_rate"] == pytest.approx(4.0)


def test_learning_rate_rises_then_falls() -> None:
    learner = learner_of(
        ann_network(), learning_rate=0.1, final_learning_rate=0.2, warmup=4, total_updates=10
    )
    rates = []
    for seed in range(12):
        learner.update(segment_of(5, seed))
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
    losses = []
    for _ in range(6):
        loss, metrics = learner.loss(segment)
        weight = float(loss.detach()) / metrics["td"] if "td" in metrics else 0.0
        losses.append(weight)
        learner.update(segment)  # also where the weight is zero
    expected = [td[0] + (td[1] - td[0]) * min(1.0, update / 4) for update in range(6)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_gradients_that_are_not_finite_are_refused(broken: float) -> None:
    network = spiking_network()
    learner = learner_of(network, td=[0, 0], distill=[1, 1], timesteps=2)
    segment = segment_of(6)
    assert segment.teacher_q is not None
    segment.teacher_q[2] = broken
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(FloatingPointError, match="not finite; lower the learning rate"):
        learner.update(segment)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_update_moves_thresholds_and_leaks_within_their_range() -> None:
    network = spiking_network()
    learner = learner_of(network, timesteps=2, learning_rate=1e-3)
    before = {name: value.clone() for name, value in network.named_parameters()}
    learner.update(segment_of(8))
    for name, value in network.named_parameters():
        assert not torch.equal(value, before[name]), name
    # Steps far out of range are brought back.
    wild = learner_of(network, timesteps=2, learning_rate=5.0)
    for seed in range(3):
        wild.update(segment_of(8, seed))
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
    learner.update(segment)
    clipped = torch.stack([p.grad.norm() for p in learner.parameters if p.grad is not None]).norm()
    assert float(clipped) == pytest.approx(0.01, rel=1e-3)


def test_target_network_is_copied_now_and_then() -> None:
    network = spiking_network()
    learner = learner_of(network, timesteps=2, target_every=3)
    assert learner.target is not None
    equal = []
    for seed in range(7):
        learner.update(segment_of(8, seed))
        old, new = learner.target.state_dict(), network.state_dict()
        equal.append(all(torch.equal(old[name], value) for name, value in new.items()))
    assert equal == [False, False, True, False, False, True, False]


def test_without_q_learning_there_is_no_target_network_and_no_bootstrap_frame() -> None:
    learner = learner_of(spiking_network(), td=[0, 0], distill=[1, 1], timesteps=2)
    assert learner.target is None
    assert learner.ahead == 0
    metrics = learner.loss(segment_of(1, ends=0))[1]
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
            q: Tensor = net(frames, ())[0]
            return q

    assert torch.equal(play(network), play(network))
    means = [value.clone() for name, value in network.named_buffers() if "running_mean" in name]
    play(network)
    learner.update(segment_of(8))
    moved = [value for name, value in network.named_buffers() if "running_mean" in name]
    assert not torch.equal(means[0], moved[0])
    assert torch.equal(play(network), play(network))
    assert torch.equal(play(learner.target), play(learner.target))


def test_learning_fits_the_values_of_a_small_problem() -> None:
    """A corridor of one step: reward 1 for action 0, -1 for others, then the end."""
    learner = learner_of(
        spiking_network(), timesteps=2, n_step=1, learning_rate=0.01, final_learning_rate=1.0
    )
    losses = []
    for seed in range(80):
        segment = segment_of(4, seed, ends=0)
        segment.terminated[:] = True
        reward = np.where(segment.action == 0, 1, -1).astype(np.float32)
        losses.append(learner.update(replace(segment, reward=reward))["td"])
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:5])
