"""Training a stage and a run: learning, exact resume, pruning, what is kept and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from short_vision import DATA, QUICK, SHAPE, Recorder, config, same, train
from torch import Tensor

from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.tracing import trace
from snn_rl.conversion.weight_pruning import density
from snn_rl.core.network import Network
from snn_rl.core.state import leaves
from snn_rl.errors import ConfigError
from snn_rl.runs.folder import Interrupted
from snn_rl.runs.resume import RESUME
from snn_rl.vision.batches import derived_seed
from snn_rl.vision.classifier import load_classifier
from snn_rl.vision.evaluation import classify, evaluate
from snn_rl.vision.learning import set_dropout
from snn_rl.vision.models import build_model
from snn_rl.vision.process import Process


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Network]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def test_a_run_learns_and_saves_every_stage(whole: tuple[Path, dict[str, Network]]) -> None:
    folder, networks = whole
    assert list(networks) == ["ann", "T3", "T1"]
    for name, network in networks.items():
        saved = load_classifier(folder / name)
        assert same(saved.network, network)
        steps = saved.timesteps
        found = evaluate(saved.network, DATA.test, steps, Process())
        assert found.images == 50
        assert found.accuracy > 0.8, name
        assert saved.card["teacher"] == (None if name == "ann" else "ann")
    assert set(saved.card["spike_rates_before"]) == {"relu1", "relu2", "relu3"}
    assert saved.card["preprocessing"] == {"image": [3, 16, 16], "pixels": "uint8 RGB, / 64"}
    assert saved.predict(DATA.test.batches([torch.arange(2)]).__next__()[0])[0] in DATA.classes
    assert not (folder / RESUME).exists()


@pytest.mark.parametrize("updates", [6, 20, 27])
def test_resume_is_exact(
    whole: tuple[Path, dict[str, Network]], tmp_path: Path, updates: int
) -> None:
    """Wherever it stops (in an epoch, at its end, in a spiking stage), the rest is the same."""
    with pytest.raises(Interrupted):
        train(tmp_path, Recorder(updates))
    resumed = train(tmp_path)
    for name, network in whole[1].items():
        assert same(resumed[name], network), name


class Impatient(Recorder):
    """Asks to stop from the time on that it is asked so often: amidst updates and validations."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self.questions = questions

    def should_stop(self) -> bool:
        self.questions -= 1
        return self.questions < 0


def test_a_stop_waits_for_no_layer_and_resume_is_exact(
    whole: tuple[Path, dict[str, Network]], tmp_path: Path
) -> None:
    asked = Impatient(10**9)
    train(tmp_path / "whole", asked)
    often, updates = 10**9 - asked.questions, asked.seen
    assert often > 10 * updates
    for questions in (5, 17, 31, often // 5, 3 + often // 5, 8 + often // 5):
        impatient = Impatient(questions)
        with pytest.raises(Interrupted):
            train(tmp_path / "run", impatient)
        assert impatient.questions == -1  # it was not asked twice
    networks = train(tmp_path / "run")
    assert all(same(networks[name], whole[1][name]) for name in networks)


def test_the_best_epoch_is_kept_not_the_last(tmp_path: Path) -> None:
    recorder = Recorder()
    stage = QUICK["ann"] | {"epochs": 4, "learning_rate": 1.0, "schedule": "steps"}
    train(tmp_path, recorder, timesteps=0, ann=stage)
    best = max(accuracy for _, accuracy in recorder.validations)
    card = load_classifier(tmp_path / "ann").card
    assert card["results"]["validation"] == pytest.approx(100 * best, abs=1e-3)


def test_direct_stages_come_from_the_ann(
    whole: tuple[Path, dict[str, Network]], tmp_path: Path
) -> None:
    """With no epoch of training T1 differs: converted, not continued."""
    untrained = QUICK["spiking"] | {"epochs": 0}
    ann = str(whole[0] / "ann")
    direct = train(tmp_path / "a", direct=True, ann_from=ann, spiking=untrained)
    alone = train(tmp_path / "b", timesteps=1, ann_from=ann, spiking=untrained)
    gradual = train(tmp_path / "c", ann_from=ann, spiking=untrained, rebalance=False)
    assert same(direct["T1"], alone["T1"])
    assert not same(direct["T1"], gradual["T1"])


def test_a_budget_is_split_evenly(tmp_path: Path) -> None:
    recorder = Recorder()
    stages = {"ann": QUICK["ann"] | {"epochs": 0}, "budget": 3}
    train(tmp_path, recorder, **stages)
    assert [stage for stage, _ in recorder.validations] == ["T3", "T3", "T1"]


def test_a_binary_network_is_trained_as_such(tmp_path: Path) -> None:
    spiking = QUICK["spiking"] | {"epochs": 3, "learning_rate": 3e-3}
    networks = train(tmp_path, binary=True, spiking=spiking)
    assert list(networks) == ["T1"]
    found = evaluate(networks["T1"], DATA.test, 1, Process())
    assert found.accuracy > 0.6
    assert not any(node.operation.kind == "batchnorm" for node in networks["T1"].nodes)  # folded


def test_pruning_by_magnitude_keeps_a_share(
    whole: tuple[Path, dict[str, Network]], tmp_path: Path
) -> None:
    prune = {"density": 0.25, "rounds": 2, "epochs": 1, "batch": 20, "learning_rate": 1e-3}
    networks = train(tmp_path, ann_from=str(whole[0] / "ann"), prune=prune)
    assert list(networks) == ["ann", "T3", "T1", "pruned"]
    # Training and the weight grid may zero a few more.
    assert 0.2 < density(networks["pruned"]) <= 0.2501
    assert density(load_classifier(tmp_path / "pruned-1").network) == pytest.approx(0.5, abs=0.02)
    assert load_classifier(tmp_path / "pruned").card["density"] == 0.25


def small() -> Network:
    torch.manual_seed(0)
    return trace(build_model("small", SHAPE, 3).eval(), SHAPE, pixels=True)


def test_layout_and_dropout_change_no_scores() -> None:
    network = small()
    images, _ = next(iter(DATA.test.batches([torch.arange(8)])))
    before = classify(network, images, 1)
    last = Process(channels_last=True).place(network.clone())
    torch.testing.assert_close(classify(last, images, 1), before, rtol=1e-4, atol=1e-5)
    other = network.clone()
    set_dropout(other, 0.5)
    assert all(
        node.operation.options()["p"] == 0
        for node in network.nodes
        if node.operation.kind == "dropout"
    )


def test_float16_and_bfloat16_keep_membranes_in_float32() -> None:
    """Under autocast the neurons still see float32; the spiking network still runs."""
    seen: set[torch.dtype] = set()

    def record(name: str, spikes: Tensor) -> None:
        seen.add(spikes.dtype)

    torch.manual_seed(0)
    process = replace(Process(), precision=torch.bfloat16)
    images = DATA.train.batches([torch.arange(8)]).__next__()[0]
    snn = convert(small(), Calibration(images[None]), timesteps=2)
    with process.autocast():
        output, state = snn(images[None], snn.initial_state(8), timesteps=2, on_spikes=record)
    assert seen == {torch.float32}
    assert all(kept.dtype == torch.float32 for kept in leaves(state))
    assert bool(output.isfinite().all())


def test_seeds_differ_by_every_part() -> None:
    seeds = {derived_seed(a, b) for a in range(20) for b in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "unknown key 'epochs'"),
        ({"ann": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"dataset": "mnist"}, "dataset"),
        ({"binary": True, "direct": True}, "leave out direct"),
        ({"timesteps": 2, "until": 3}, "temporal pruning runs from"),
        ({"budget": 4, "spiking": {"epochs_at": {1: 2}}}, "leave out spiking.epochs_at"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)
