"""A whole run: ANN, conversion, spiking stages from T down to 1, pruning; each one saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from snn_rl.conversion.batch_norm import (
    has_batch_norm,
    insert_batch_norm,
    measure_batch_norm,
)
from snn_rl.conversion.convert import Calibration, balance, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.temporal_pruning import Stage, Start, temporal_pruning
from snn_rl.conversion.tracing import trace
from snn_rl.conversion.weight_pruning import apply_masks, magnitude_masks
from snn_rl.core.network import Network
from snn_rl.core.surrogates import Surrogate
from snn_rl.errors import SnnRlError
from snn_rl.runs import checkpoint
from snn_rl.runs.folder import Interrupted, begin, held, holds, keep, lasting
from snn_rl.runs.owner import Owner, own
from snn_rl.runs.provenance import hardware, written
from snn_rl.runs.resume import RESUME, Saver
from snn_rl.vision.batches import derived_seed
from snn_rl.vision.classifier import CLASSIFIERS
from snn_rl.vision.config import ANN, PRUNED, VisionConfig, read_config
from snn_rl.vision.data import Data
from snn_rl.vision.evaluation import evaluate
from snn_rl.vision.models import PIXEL_SCALE, Options, build_model
from snn_rl.vision.monitor import Monitor
from snn_rl.vision.plan import StagePlan
from snn_rl.vision.process import Process
from snn_rl.vision.training import Result, StageTrainer

RATE_IMAGES = 1000
SECONDS_BETWEEN_SAVES = 60.0
CALIBRATION, PRUNING = 1_000_000, 2_000_000  # places among the stages' seeds


class Run:
    """Trains all stages of one configuration into `folder`; those that it holds are loaded.

    Args:
        data: opened by `load_data`.
        process: under torchrun every process makes the same calls.
        monitor: sees progress and may stop the run.
        command: how to reproduce the run, for the stages' cards.
        fresh: the folder must not hold a run yet.
    """

    def __init__(
        self,
        config: VisionConfig,
        data: Data,
        folder: Path,
        process: Process,
        monitor: Monitor,
        *,
        command: str = "",
        fresh: bool = False,
    ) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.process, self.monitor, self.command = process, monitor, command
        self.fresh = fresh
        self.owner: Owner | None = None

    def train(self) -> dict[str, Stage]:
        """Train every stage; stages by name.

        Raises:
            Interrupted: the monitor asked to stop; what was reached is saved.
            SnnRlError: another process trains in the folder, or it holds another run.
        """
        with own(self.folder) if self.process.leads else nullcontext() as self.owner:
            if self.process.leads:
                begin(self.folder, self.config, self.command, read_config, self.fresh)
            self.process.wait()
            return self._train_stages()

    def _train_stages(self) -> dict[str, Stage]:
        config, stages = self.config, dict[str, Stage]()
        if config.binary:
            stages["T1"] = self._stage("T1", 1, self._train_binary)
        else:
            stages[ANN] = self._imported_ann() or self._stage(ANN, 1, self._train_ann)
            schedule = config.stages()
            for part in [[t] for t in schedule] if config.direct else [schedule]:
                self._prune_in_time(stages, part)
        if config.prune.density < 1:
            stages[PRUNED] = self._prune_weights(list(stages.values())[-1])
        return stages

    def _stage(self, name: str, timesteps: int, train: Callable[[], Network]) -> Stage:
        """The stage that the folder holds, or that is trained now."""
        network = self._load(name) if holds(self.folder, name) else train()
        return Stage(timesteps, network)

    def _load(self, name: str) -> Network:
        network, _ = checkpoint.load(self.folder / name)
        return self.process.place(network)

    def _imported_ann(self) -> Stage | None:
        """The ANN that the run converts instead of training one, if any."""
        if self.config.ann_from is None:
            return None
        network, card = checkpoint.load(CLASSIFIERS.find(self.config.ann_from))
        if network.spiking or card.get("dataset", {}).get("name") != self.data.name:
            raise SnnRlError(f"{self.config.ann_from} holds no ANN for {self.data.name}")
        return Stage(1, self.process.place(network))

    def _train_ann(self) -> Network:
        config = self.config.ann
        plan = StagePlan(ANN, 1, config.epochs, config, self._seed(0))
        return self._train(plan, self._build_ann(config.dropout))

    def _train_binary(self) -> Network:
        """Binary activations trained as such: spiking at T = 1 from random weights, with
        batch-norm between layer and neurons (Table 3's rivals)."""
        config = self.config.spiking
        network = self._build_ann(config.dropout)
        measure_batch_norm(network, self._calibration().frames)
        plan = StagePlan("T1", 1, config.epochs_of(1), config, self._seed(1))
        return self._train(plan, self._convert(network, 1, fold=False))

    def _prune_in_time(self, stages: dict[str, Stage], schedule: list[int]) -> None:
        """Add the spiking stages to `stages`, going on from those that the folder holds."""
        done = held(self.folder, schedule)
        for t in done:
            stages[f"T{t}"] = Stage(t, self._load(f"T{t}"))
        remaining = schedule[len(done) :]
        if not remaining:
            return
        start = stages[f"T{done[-1]}"].network if done else None
        keeps_norm = self.config.spiking.batch_norm
        for stage in temporal_pruning(
            start or self._convert(stages[ANN].network, schedule[0], fold=not keeps_norm),
            remaining,
            partial(self._train_spiking, stages),
            self._rates,
            rescale_leak=self.config.rescale_leak,
        ):
            stages[f"T{stage.timesteps}"] = stage

    def _train_spiking(self, stages: Mapping[str, Stage], start: Start) -> Network:
        """Train a stage that comes after `stages`."""
        config, network, t = self.config, start.network, start.timesteps
        if config.rebalance and not config.direct and t != config.timesteps:
            self._balance(network, t)
        if config.spiking.batch_norm and not has_batch_norm(network):
            network = insert_batch_norm(network, self._calibration().frames, t)
        teacher = stages[ANN] if config.teacher == ANN else list(stages.values())[-1]
        epochs = config.spiking_epochs(t)
        plan = StagePlan(f"T{t}", t, epochs, config.spiking, self._seed(t), teacher)
        return self._train(plan, network, {"spike_rates_before": dict(start.spike_rates)})

    def _prune_weights(self, last: Stage) -> Stage:
        """The last stage with the smallest weights removed, trained on after every removal."""
        config, stage = self.config.prune, last
        for index in range(1, config.rounds + 1):
            name = PRUNED if index == config.rounds else f"{PRUNED}-{index}"
            density = config.density ** (index / config.rounds)
            network = stage.network.clone()
            masks = magnitude_masks(network, density)
            apply_masks(network, masks)
            seed, teacher = self._seed(PRUNING + index), last if config.distill > 0 else None
            plan = StagePlan(name, last.timesteps, config.epochs, config, seed, teacher, masks)
            train = partial(self._train, plan, network, {"density": density})
            stage = self._stage(name, last.timesteps, train)
        return stage

    def _train(
        self, plan: StagePlan, network: Network, facts: Mapping[str, Any] | None = None
    ) -> Network:
        """Train and save a stage.

        Args:
            facts: further entries of its card.

        Raises:
            Interrupted: the monitor asked to stop.
        """
        settings, check = lasting(self.config), self._check_owner
        saver = Saver(self.folder / RESUME, SECONDS_BETWEEN_SAVES, check, settings)
        trainer = StageTrainer(
            plan, network, self.data, self.config.augment, self.process, self.monitor, saver
        )
        result = trainer.run()
        self.process.wait()
        self._check_owner()
        if self.process.leads:
            card = self._card(plan, result) | dict(facts or {})

            def save(folder: Path) -> None:
                checkpoint.save(folder, result.network, plan.timesteps, card)

            keep(self.folder, plan.name, save, interrupted=result.interrupted)
        self.process.wait()
        if result.interrupted:
            raise Interrupted(plan.name)
        return self.process.place(result.network)

    def _check_owner(self) -> None:
        if self.owner is not None:
            self.owner.check()

    def _build_ann(self, dropout: float) -> Network:
        """Freshly initialised ANN."""
        torch.manual_seed(self.config.seed)
        options = Options(self.config.batch_norm, dropout)
        model = build_model(self.config.model, self.data.shape, len(self.data.classes), options)
        return self.process.place(trace(model, self.data.shape, pixels=True))

    def _convert(self, ann: Network, timesteps: int, *, fold: bool = True) -> Network:
        """Spiking network from the ANN, balanced on training images."""
        neurons = self.config.neurons
        options = NeuronOptions(
            threshold=neurons.threshold,
            leak=neurons.leak,
            percentile=neurons.percentile,
            surrogate=Surrogate(neurons.surrogate, neurons.gamma),
        )
        ann = ann.clone().eval()
        return convert(ann, self._calibration(), timesteps=timesteps, options=options, fold=fold)

    def _balance(self, network: Network, timesteps: int) -> None:
        """Set the thresholds anew for T."""
        balance(
            network,
            self._calibration(),
            timesteps=timesteps,
            carry_membrane=False,
            percentile=self.config.neurons.percentile,
        )

    def _calibration(self) -> Calibration:
        train = self.data.train
        generator = torch.Generator().manual_seed(self._seed(CALIBRATION))
        chosen = torch.randperm(len(train.labels), generator=generator)
        (batch,) = train.batches([chosen[: self.config.neurons.calibration]])
        return Calibration(batch[0][None].to(self.process.device))

    def _rates(self, network: Network, timesteps: int) -> Mapping[str, float]:
        """Spike rates per layer on some validation images."""
        found = evaluate(network, self.data.validation, timesteps, self.process, limit=RATE_IMAGES)
        return found.spike_rates

    def _seed(self, place: int) -> int:
        return derived_seed(self.config.seed, place)

    def _card(self, plan: StagePlan, result: Result) -> dict[str, Any]:
        config = self.config
        distils = plan.teacher is not None and plan.config.distill > 0
        accuracy = result.validation
        return {
            "task": "classification",
            "stage": plan.name,
            "model": config.model,
            "dataset": {"name": self.data.name, "classes": list(self.data.classes)},
            "preprocessing": {
                "image": list(self.data.shape),
                "pixels": f"uint8 RGB, / {PIXEL_SCALE:g}",
            },
            "teacher": (config.teacher if plan.name != PRUNED else "T1") if distils else None,
            "provenance": {
                "command": self.command,
                "seed": config.seed,
                "epochs": result.epochs,
                "updates": result.updates,
                "seconds": round(result.seconds, 1),
                **hardware(self.process.device, self.process.world),
                **written(),
            },
            "results": {} if accuracy is None else {"validation": round(100 * accuracy, 3)},
        }
