"""A whole run: ANN, conversion, spiking stages from T down to 1, pruning; each one saved."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from snn_rl.conversion.batch_norm import insert_batch_norm, measure_batch_norm
from snn_rl.conversion.convert import Calibration, NeuronOptions, balance, convert
from snn_rl.conversion.temporal_pruning import even_split, temporal_pruning
from snn_rl.conversion.tracing import trace
from snn_rl.conversion.weight_pruning import Masks, apply_masks, magnitude_masks
from snn_rl.core.network import Network
from snn_rl.core.surrogates import Surrogate
from snn_rl.errors import SnnRlError
from snn_rl.runs import checkpoint
from snn_rl.runs.owner import Owner, own
from snn_rl.runs.provenance import hardware, written
from snn_rl.runs.resume import RESUME, Saver
from snn_rl.vision.classifier import ANN, CONFIG, PRUNED
from snn_rl.vision.config import VisionConfig
from snn_rl.vision.data import Data
from snn_rl.vision.evaluation import evaluate
from snn_rl.vision.models import PIXEL_SCALE, Options, build_model
from snn_rl.vision.monitor import Monitor
from snn_rl.vision.process import Process
from snn_rl.vision.training import Result, Stage, StageTrainer, derived_seed

log = logging.getLogger(__name__)

RATE_IMAGES = 1000
SECONDS_BETWEEN_SAVES = 60.0
CALIBRATION, PRUNING = 1_000_000, 2_000_000  # places among the stages' seeds


class Interrupted(Exception):
    """Training was asked to stop; an exact resume is saved in the run's folder."""


@dataclass(frozen=True)
class Trained:
    """A stage of the run."""

    network: Network
    timesteps: int


class Run:
    """Trains all stages of one configuration into `folder`; finished ones are taken from there.

    Args:
        data: opened by `load_data`.
        process: of this process; under torchrun every process makes the same calls.
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
        self.options = NeuronOptions(
            threshold=config.neurons.threshold,
            leak=config.neurons.leak,
            percentile=config.neurons.percentile,
            surrogate=Surrogate(config.neurons.surrogate, config.neurons.gamma),
        )

    def train(self) -> dict[str, Trained]:
        """Train every stage; stages by name.

        Raises:
            Interrupted: the monitor asked to stop.
            SnnRlError: another process trains in the folder, or it holds a run where none may be.
        """
        with own(self.folder) if self.process.leads else nullcontext() as owner:
            self.owner = owner
            return self._train_stages()

    def _train_stages(self) -> dict[str, Trained]:
        if self.process.leads:
            if self.fresh and (self.folder / CONFIG).exists():
                raise SnnRlError(
                    f"{self.folder} already holds a run: add --resume or choose another --run-dir"
                )
            text = yaml.safe_dump(self.config.model_dump(), sort_keys=False)
            checkpoint.write_text(self.folder / CONFIG, text)
        self.process.wait()
        if self.config.binary:
            stages = {"T1": self._binary()}
        else:
            ann = self._ann()
            stages = {ANN: ann} | self._spiking(ann)
        if self.config.prune.density < 1:
            stages[PRUNED] = self._pruned(list(stages.values())[-1])
        return stages

    def _ann(self) -> Trained:
        config = self.config
        if config.ann_from is not None:
            network, card = checkpoint.load(Path(config.ann_from))
            if network.spiking or card.get("dataset", {}).get("name") != self.data.name:
                raise SnnRlError(f"{config.ann_from} holds no ANN for {self.data.name}")
            return Trained(self.process.place(network), 1)
        network = self._fresh(config.ann.dropout)
        stage = Stage(ANN, 1, config.ann.epochs, config.ann, self._seed(0))
        return self._train(stage, network, {})

    def _fresh(self, dropout: float) -> Network:
        """Freshly initialised ANN."""
        torch.manual_seed(self.config.seed)
        options = Options(self.config.batch_norm, dropout)
        model = build_model(self.config.model, self.data.shape, len(self.data.classes), options)
        return self.process.place(trace(model, self.data.shape, pixels=True))

    def _spiking(self, ann: Trained) -> dict[str, Trained]:
        """The spiking stages, each from the one before, or each from the ANN (`direct`)."""
        config = self.config
        stages: dict[str, Trained] = {}
        schedule = config.stages()
        epochs = {t: config.spiking.epochs_of(t) for t in schedule}
        if config.budget is not None and schedule:
            epochs = dict(zip(schedule, even_split(config.budget, len(schedule)), strict=True))
        before: list[Mapping[str, float]] = []
        previous = ann

        def rates(network: Network, timesteps: int) -> Mapping[str, float]:
            found = self._rates(network, timesteps)
            before.append(found)
            return found

        def train(network: Network, timesteps: int) -> Network:
            nonlocal previous
            if config.rebalance and stages and not config.direct:
                self._balance(network, timesteps)
            if config.spiking.batch_norm:
                network = insert_batch_norm(network, self._calibration().frames, timesteps)
            teacher = ann if config.teacher == ANN else previous
            stage = Stage(
                f"T{timesteps}",
                timesteps,
                epochs[timesteps],
                config.spiking,
                self._seed(timesteps),
                teacher=teacher.network,
                teacher_timesteps=teacher.timesteps,
            )
            previous = self._train(stage, network, {"spike_rates_before": dict(before[-1])})
            stages[stage.name] = previous
            return previous.network

        for part in [[t] for t in schedule] if config.direct else [schedule]:
            if part:
                start = self._convert(ann.network, part[0])
                walk = temporal_pruning(start, part, train, rates, rescale_leak=config.rescale_leak)
                for _ in walk:
                    pass
        return stages

    def _binary(self) -> Trained:
        """Binary activations trained as such: spiking at T = 1 from random weights, with
        batch-norm between layer and neurons (Table 3's rivals)."""
        network = self._fresh(self.config.spiking.dropout)
        measure_batch_norm(network, self._calibration().frames)
        network = self._convert(network, 1, fold=False)
        spiking = self.config.spiking
        stage = Stage("T1", 1, spiking.epochs_of(1), spiking, self._seed(1))
        return self._train(stage, network, {})

    def _pruned(self, last: Trained) -> Trained:
        """The last stage with the smallest weights removed, trained on after every removal."""
        config = self.config.prune
        stage = last
        for index in range(1, config.rounds + 1):
            density = config.density ** (index / config.rounds)
            name = PRUNED if index == config.rounds else f"{PRUNED}-{index}"
            network = stage.network.clone()
            masks: Masks = magnitude_masks(network, density)
            apply_masks(network, masks)
            seed = self._seed(PRUNING + index)
            teacher = last.network if config.distill > 0 else None
            plan = Stage(
                name, last.timesteps, config.epochs, config, seed, teacher, last.timesteps, masks
            )
            stage = self._train(plan, network, {"density": density})
        return stage

    def _train(self, stage: Stage, network: Network, facts: Mapping[str, Any]) -> Trained:
        """Train and save a stage, or load it if it is finished."""
        folder = self.folder / stage.name
        if (folder / checkpoint.CARD).is_file():
            network, _ = checkpoint.load(folder)
            return Trained(self.process.place(network), stage.timesteps)
        trainer = StageTrainer(
            stage,
            network,
            self.data,
            self.config.augment,
            self.process,
            self.monitor,
            Saver(self.folder / RESUME, SECONDS_BETWEEN_SAVES, self._check_owner),
        )
        result = trainer.run()
        self.process.wait()
        if result.interrupted:
            raise Interrupted(stage.name)
        self._check_owner()
        if self.process.leads:
            card = self._card(stage, result) | dict(facts)
            checkpoint.save(folder, result.network, stage.timesteps, card)
            shutil.rmtree(self.folder / RESUME, ignore_errors=True)
        self.process.wait()
        return Trained(self.process.place(result.network), stage.timesteps)

    def _check_owner(self) -> None:
        if self.owner is not None:
            self.owner.check()

    def _convert(self, ann: Network, timesteps: int, *, fold: bool = True) -> Network:
        """Spiking network from the ANN, balanced on training images."""
        ann = ann.clone().eval()
        return convert(
            ann, self._calibration(), timesteps=timesteps, options=self.options, fold=fold
        )

    def _balance(self, network: Network, timesteps: int) -> None:
        """Set the thresholds anew for T."""
        balance(
            network,
            self._calibration(),
            timesteps=timesteps,
            carry_membrane=False,
            percentile=self.options.percentile,
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

    def _card(self, stage: Stage, result: Result) -> dict[str, Any]:
        config = self.config
        distils = stage.teacher is not None and stage.config.distill > 0
        return {
            "task": "classification",
            "stage": stage.name,
            "model": config.model,
            "dataset": {"name": self.data.name, "classes": list(self.data.classes)},
            "preprocessing": {
                "image": list(self.data.shape),
                "pixels": f"uint8 RGB, / {PIXEL_SCALE:g}",
            },
            "teacher": (config.teacher if stage.name != PRUNED else "T1") if distils else None,
            "provenance": {
                "command": self.command,
                "seed": config.seed,
                "epochs": result.epochs,
                "updates": result.updates,
                "seconds": round(result.seconds, 1),
                **hardware(self.process.device, self.process.world),
                **written(),
            },
            "results": {"validation": round(100 * result.validation, 3)},
        }
