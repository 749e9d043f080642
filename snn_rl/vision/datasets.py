"""Opens a data set by the name in the configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from snn_rl.vision.cifar import SHAPE, load_cifar
from snn_rl.vision.config import VisionConfig
from snn_rl.vision.data import Data, Source, hold_out
from snn_rl.vision.folders import load_folder, load_imagenet, load_tiny_imagenet

TINY = 64


def load_data(config: VisionConfig) -> Data:
    """The configured data set, a validation part held out from its training images.

    Raises:
        SnnRlError: names the file that is missing or damaged, and the layout that is expected.
    """
    train, test, classes, shape = _official(config)
    kept, held_out = hold_out(train, config.validation, config.train_limit)
    return Data(config.dataset, classes, shape, kept, held_out, test)


def load_test(config: VisionConfig) -> Source:
    """The configured data set's official test or validation images. Raises as `load_data`."""
    return _official(config)[1]


def _official(
    config: VisionConfig,
) -> tuple[Source, Source, tuple[str, ...], tuple[int, int, int]]:
    """Official training and test images, class names, shape of an image."""
    root = Path(config.data)
    if config.dataset in ("cifar10", "cifar100"):
        return *load_cifar(root, 10 if config.dataset == "cifar10" else 100), SHAPE
    side = config.image_size
    if config.dataset == "tiny-imagenet":
        side = TINY
        train, test, classes = load_tiny_imagenet(root)
    else:
        load = load_imagenet if config.dataset == "imagenet" else load_folder
        low, high = config.augment.resized_crop
        train, test, classes = load(root, side)
        train = replace(train, scale=(low, high))
    workers = config.workers
    return (
        replace(train, workers=workers),
        replace(test, workers=workers),
        classes,
        (3, side, side),
    )
