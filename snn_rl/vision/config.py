"""Typed configuration of an image-classification run. Unknown keys and wrong types are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from snn_rl.conversion.temporal_pruning import even_split, schedule
from snn_rl.core.operations import Granularity
from snn_rl.core.surrogates import Shipped
from snn_rl.support.settings import Section, WholeKey, read_yaml, validate

ANN, PRUNED = "ann", "pruned"
KEY = "dataset"
"""Names a run's settings as a classifier's."""
Model = Literal["small", "fast", "vgg6", "vgg16", "resnet20"]
Dataset = Literal["cifar10", "cifar100", "tiny-imagenet", "imagenet", "folder"]


class NeuronConfig(Section):
    """The LIF neurons and how conversion initialises them (the paper's by default)."""

    threshold: Granularity = "layer"
    """one trainable threshold per layer, channel or neuron"""
    leak: Granularity = "layer"
    """one trainable leak per layer, channel or neuron"""
    percentile: float = Field(default=90.0, gt=0, le=100)
    """of the positive membranes on training images: the starting threshold"""
    surrogate: Shipped = "triangle"
    """triangle is the paper's"""
    gamma: float | None = Field(default=None, gt=0)
    """height of the triangle, or steepness of the arctan; unset: the surrogate's own default"""
    calibration: int = Field(default=256, gt=0)
    """training images that thresholds are balanced on"""


class AugmentConfig(Section):
    """Random changes of the training images, drawn on the training device."""

    crop: int = Field(default=4, ge=0)
    """pixels of border from which a crop of the image's size is cut"""
    border: Literal["black", "reflect"] = "black"
    """what that border shows: nothing, or the image reflected"""
    flip: Literal["none", "random", "alternating"] = "random"
    """mirror no image, a random half, or one half in this epoch and the other in the next"""
    cutout: int = Field(default=0, ge=0)
    """side of a black square put anywhere on the image"""
    mixup: float = Field(default=0.0, ge=0)
    """each image is blended with another of its batch, and so are their labels, in a share drawn
    from Beta(mixup, mixup); 0: never"""
    resized_crop: list[float] = Field(default=[0.08, 1.0], min_length=2, max_length=2)
    """share of a decoded image's area that a random crop covers (image files alone)"""


class StageConfig(Section):
    """How one stage is trained. The defaults are the authors' for an ANN on CIFAR."""

    epochs: int = Field(default=300, ge=0)
    epochs_at: dict[WholeKey, int] = Field(default={})
    """epochs of single spiking stages by T, where they differ, e.g. {1: 20}"""
    batch: int = Field(default=64, gt=0)
    """images per update, over all processes together"""
    optimizer: Literal["sgd", "adam", "muon"] = "sgd"
    """sgd with Nesterov's momentum 0.9, Adam with amsgrad, or Muon for convolutions and Adam for
    the rest"""
    learning_rate: float = Field(default=0.01, gt=0)
    linear_learning_rate: float | None = Field(default=None, gt=0)
    """of linear layers' weights, where it differs"""
    bias_learning_rate: float | None = Field(default=None, gt=0)
    """of biases and batch-norm, where it differs"""
    neuron_learning_rate: float | None = Field(default=None, gt=0)
    """of thresholds and leaks, where it differs"""
    weight_decay: float = Field(default=5e-4, ge=0)
    """of weights alone: never of biases, batch-norm, thresholds or leaks"""
    average: float = Field(default=0.0, ge=0, lt=1)
    """what a running average of the weights keeps at every update; it is the average that is
    validated and saved; 0: the weights themselves"""
    schedule: Literal["steps", "onecycle"] = "steps"
    """steps divides the rate by 5 at each milestone; onecycle rises over `warmup` and falls to 0"""
    milestones: list[float] = Field(default=[0.45, 0.7, 0.9])
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """share of the stage over which the rate rises from zero"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    distill: float = Field(default=0.0, ge=0, le=1)
    """weight of the teacher's logits in the loss; the labels have the rest"""
    temperature: float = Field(default=4.0, gt=0)
    """of the teacher's and the student's softmax when distilling"""
    max_grad_norm: float = Field(default=0.0, ge=0)
    """gradients are scaled down to this norm; 0: never"""

    def epochs_of(self, timesteps: int) -> int:
        """Epochs of the spiking stage at T."""
        return self.epochs_at.get(timesteps, self.epochs)


class SpikingConfig(StageConfig):
    """One spiking stage. The defaults are the authors' on CIFAR (they do not state the epochs)."""

    epochs: int = Field(default=100, ge=0)
    optimizer: Literal["sgd", "adam", "muon"] = "adam"
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    """of weights alone; that of the ANN is not taken over"""
    milestones: list[float] = Field(default=[0.6, 0.8, 0.9])
    dropout: float = Field(default=0.2, ge=0, lt=1)
    batch_norm: bool = False
    """train with batch-norm: the ANN's, or where it was folded one that begins as the identity
    behind every convolution; it is folded away again at the stage's end"""


class PruneConfig(StageConfig):
    """Removing weights of the last stage by magnitude, then training what is left."""

    density: float = Field(default=1.0, gt=0, le=1)
    """share of the weights that stays; 1: nothing is removed"""
    rounds: int = Field(default=1, ge=1)
    """density falls geometrically over so many removals, each followed by `epochs`"""
    epochs: int = Field(default=30, ge=0)
    optimizer: Literal["sgd", "adam", "muon"] = "adam"
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    """of weights alone; that of the ANN is not taken over"""
    milestones: list[float] = Field(default=[0.6, 0.8, 0.9])
    dropout: float = Field(default=0.2, ge=0, lt=1)


class VisionConfig(Section):
    """A whole run: ANN, then spiking stages from `timesteps` down to `until`, then pruning."""

    dataset: Dataset
    data: str = "data"
    """folder that holds the data set's official files"""
    image_size: int = Field(default=224, gt=0)
    """side of the crops of image files (imagenet and folder; Tiny-ImageNet has 64)"""
    model: Model = "vgg16"
    batch_norm: bool = True
    """in the ANN; folded into the weights when it is converted, or at its stage's end"""
    binary: bool = False
    """train a network of binary activations as such instead: no ANN, T = 1 from the first epoch"""
    seed: int = Field(default=0, ge=0)
    timesteps: int = Field(default=5, ge=0)
    """T of the first spiking stage; 0 trains the ANN alone"""
    until: int = Field(default=1, ge=1)
    """T of the last stage"""
    step: int = Field(default=1, ge=1)
    """timesteps removed per stage"""
    skip: list[int] = Field(default=[])
    """stages to leave out, e.g. [4, 2]"""
    direct: bool = False
    """every stage is converted from the ANN instead of continuing the one before (Table 4)"""
    budget: int | None = Field(default=None, gt=0)
    """epochs of all spiking stages together, split evenly, instead of spiking.epochs"""
    rescale_leak: bool = False
    """keep a membrane's memory per image when T drops: leak ** (T_old / T_new)"""
    rebalance: bool = False
    """set the thresholds anew from data when T drops"""
    teacher: Literal["ann", "previous"] = "ann"
    """whose logits a spiking stage distils, where spiking.distill is above 0"""
    ann_from: str | None = None
    """a trained ANN to convert instead of training one: its folder, or zoo:NAME"""
    validation: int | float = Field(default=5000, gt=0)
    """training images held out to choose the weights of a stage, or a share of them below 1; never
    the test set"""
    train_limit: int | None = Field(default=None, gt=0)
    """train on so many images only (to try things out)"""
    ann: StageConfig = StageConfig()
    spiking: SpikingConfig = SpikingConfig()
    prune: PruneConfig = PruneConfig()
    neurons: NeuronConfig = NeuronConfig()
    augment: AugmentConfig = AugmentConfig()
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """of convolutions and linear layers (membranes stay in float32); auto: bfloat16 on a GPU, and
    on a CPU where a short measurement finds it faster"""
    channels_last: bool = True
    """memory layout of convolutions"""
    device: str = "auto"
    """auto, cpu or cuda"""
    threads: int = Field(default=1, ge=1)
    """CPU threads of torch"""
    workers: int = Field(default=2, ge=0)
    """processes that decode image files"""

    @model_validator(mode="after")
    def _consistent(self) -> VisionConfig:
        if isinstance(self.validation, float) and self.validation >= 1:
            raise ValueError("validation is a whole number of images, or a share below 1")
        if self.binary and (self.direct or self.ann_from or self.budget):
            raise ValueError("a binary network is trained as such: leave out direct, ann_from")
        if self.budget is not None and self.spiking.epochs_at:
            raise ValueError("budget splits the epochs evenly: leave out spiking.epochs_at")
        stages = self.stages()
        if self.budget is not None and stages:
            even_split(self.budget, len(stages))
        return self

    def stages(self) -> list[int]:
        """Timesteps of the spiking stages. Raises SnnRlError for an impossible schedule."""
        if self.binary:
            return [1]
        if self.timesteps == 0:
            return []
        return schedule(self.timesteps, self.until, step=self.step, skip=self.skip)

    def stage_names(self) -> list[str]:
        """All stages in order of training."""
        names = [] if self.binary or self.ann_from else [ANN]
        names += [f"T{t}" for t in self.stages()]
        return [*names, PRUNED] if self.prune.density < 1 else names

    def spiking_epochs(self, timesteps: int) -> int:
        """Epochs of the spiking stage at T."""
        schedule = self.stages()
        if self.budget is None:
            return self.spiking.epochs_of(timesteps)
        return even_split(self.budget, len(schedule))[schedule.index(timesteps)]


def read_config(path: Path) -> VisionConfig:
    """Configuration from a YAML file. Raises ConfigError with the path of the mistake."""
    return validate(VisionConfig, read_yaml(path), str(path))
