"""The paper's image classifiers as its authors define them, and a small one for CPUs.

Source: Chowdhury, Rathi and Roy 2022, section 5, and their public release of 2021. All
convolutions are 3x3 with padding 1 unless noted, all poolings average 2x2. Pixels enter as 0...255
and are scaled by a power of two; their mean is left to the first batch-norm or bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn

from snn_rl.errors import SnnRlError
from snn_rl.vision.config import Model

PIXEL_SCALE = 64.0
"""Pixels are divided by it: about the standard deviation of natural images, times 256."""

Shape = tuple[int, int, int]
"""Channels, height, width."""

POOL = "A"
_VGG6: tuple[int | str, ...] = (64, POOL, 128, 128, POOL)
_VGG16: tuple[int | str, ...] = (
    *(64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL),
    *(512, 512, 512, POOL, 512, 512, 512),
)
_FAST: tuple[int | str, ...] = (96, 96, POOL, 128, 128, POOL, 256, 256, 256)
_LARGE_IMAGE = 64


@dataclass(frozen=True)
class Options:
    """What all models share.

    Attributes:
        batch_norm: after every convolution, which then has no bias of its own.
        dropout: after every hidden layer that no pooling follows.
    """

    batch_norm: bool = True
    dropout: float = 0.0


class NamedLayers(nn.Sequential):
    """Named layers in order, reading pixels 0...255 [batch, channels, height, width]."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, classes]."""
        x = x / PIXEL_SCALE
        for layer in self:
            x = layer(x)
        return x


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut into the second one's activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, options: Options) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, options, stride=stride)
        self.norm1 = _norm(outputs, options)
        self.relu1 = nn.ReLU()
        self.dropout = nn.Dropout(options.dropout)
        self.conv2 = _conv(outputs, outputs, options)
        self.norm2 = _norm(outputs, options)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = _conv(inputs, outputs, options, kernel=1, stride=stride)
            self.shortcut = nn.Sequential(conv, _norm(outputs, options))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, outputs, height / stride, width / stride]."""
        y = self.dropout(self.relu1(self.norm1(self.conv1(x))))
        result: Tensor = self.relu2(self.norm2(self.conv2(y)) + self.shortcut(x))
        return result


def build_model(
    name: Model, shape: Shape, classes: int, options: Options | None = None
) -> NamedLayers:
    """Freshly initialised classifier.

    Args:
        name: vgg6, vgg16 (with a fifth pooling for images of 64 pixels and more), resnet20, small,
            fast (for hours on a CPU).
        shape: channels, height and width of an image.

    Raises:
        SnnRlError: unknown model, or images it cannot pool.
    """
    options = options or Options()
    builders: dict[str, Callable[[], NamedLayers]] = {
        "vgg6": lambda: _vgg(_VGG6, (4096, 4096), shape, classes, options),
        "vgg16": lambda: _vgg(_vgg16(shape), (4096, 4096), shape, classes, options),
        "small": lambda: _small(shape, classes, options),
        "fast": lambda: _fast(shape, classes, options),
        "resnet20": lambda: _resnet20(shape, classes, options),
    }
    if name not in builders:
        raise SnnRlError(f"model {name!r} is unknown; there are {', '.join(get_args(Model))}")
    model = builders[name]()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    nn.init.normal_(_last(model).weight, std=0.01)
    return model


def _vgg16(shape: Shape) -> tuple[int | str, ...]:
    return (*_VGG16, POOL) if min(shape[1:]) >= _LARGE_IMAGE else _VGG16


def _vgg(
    plan: Sequence[int | str], hidden: Sequence[int], shape: Shape, classes: int, options: Options
) -> NamedLayers:
    """Convolutions and poolings by `plan`, then linear layers."""
    model = NamedLayers()
    channels, height, width = _features(model, plan, shape, options)
    return _head(model, channels * height * width, hidden, classes, options)


def _features(
    model: NamedLayers, plan: Sequence[int | str], shape: Shape, options: Options
) -> Shape:
    """Add convolutions and poolings by `plan`; the shape behind them."""
    channels, height, width = shape
    convolutions = pools = 0
    for index, item in enumerate(plan):
        if isinstance(item, str):
            pools += 1
            height, width = _halved(height, width)
            model.add_module(f"pool{pools}", nn.AvgPool2d(2))
            continue
        convolutions += 1
        model.add_module(f"conv{convolutions}", _conv(channels, item, options))
        if options.batch_norm:
            model.add_module(f"norm{convolutions}", nn.BatchNorm2d(item))
        model.add_module(f"relu{convolutions}", nn.ReLU())
        if index + 1 < len(plan) and plan[index + 1] != POOL:
            model.add_module(f"dropout{convolutions}", nn.Dropout(options.dropout))
        channels = item
    return channels, height, width


def _fast(shape: Shape, classes: int, options: Options) -> NamedLayers:
    """96,96,A,128,128,A,256,256,256, mean over the image; FC: 1.8 M parameters.

    Wide where a binary spike tells least, at the first layers; small where weights are many.
    """
    model = NamedLayers()
    channels, height, width = _features(model, _FAST, shape, options)
    model.add_module("mean", nn.AvgPool2d((height, width)))
    return _head(model, channels, (), classes, options)


def _small(shape: Shape, classes: int, options: Options) -> NamedLayers:
    """4x4 conv48 of stride 2, conv64, A, conv128, A; FC: sized for training on one CPU core."""
    model = NamedLayers()
    channels, height, width = shape
    first = nn.Conv2d(channels, 48, 4, 2, padding=1, bias=not options.batch_norm)
    for index, conv in enumerate((first, _conv(48, 64, options), _conv(64, 128, options)), start=1):
        model.add_module(f"conv{index}", conv)
        if options.batch_norm:
            model.add_module(f"norm{index}", nn.BatchNorm2d(conv.out_channels))
        model.add_module(f"relu{index}", nn.ReLU())
        if index > 1:
            model.add_module(f"pool{index}", nn.AvgPool2d(2))
        height, width = _halved(height, width)
    return _head(model, 128 * height * width, (), classes, options)


def _resnet20(shape: Shape, classes: int, options: Options) -> NamedLayers:
    """Stem of three convolutions, pooling, eight basic blocks, one linear layer."""
    model = NamedLayers()
    channels, height, width = shape
    for index in (1, 2, 3):
        model.add_module(f"conv{index}", _conv(channels, 64, options))
        if options.batch_norm:
            model.add_module(f"norm{index}", nn.BatchNorm2d(64))
        model.add_module(f"relu{index}", nn.ReLU())
        if index < 3:
            model.add_module(f"dropout{index}", nn.Dropout(options.dropout))
        channels = 64
    model.add_module("pool1", nn.AvgPool2d(2))
    height, width = _halved(height, width)
    for group, (outputs, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), start=1):
        model.add_module(f"block{group}a", BasicBlock(channels, outputs, stride, options))
        model.add_module(f"block{group}b", BasicBlock(outputs, outputs, 1, options))
        channels, height, width = outputs, -(-height // stride), -(-width // stride)
    return _head(model, channels * height * width, (), classes, options)


def _head(
    model: NamedLayers, features: int, hidden: Sequence[int], classes: int, options: Options
) -> NamedLayers:
    model.add_module("flatten", nn.Flatten())
    for index, width in enumerate(hidden, start=1):
        model.add_module(f"fc{index}", nn.Linear(features, width))
        model.add_module(f"fc_relu{index}", nn.ReLU())
        model.add_module(f"fc_dropout{index}", nn.Dropout(options.dropout))
        features = width
    model.add_module("read_out", nn.Linear(features, classes))
    return model


def _conv(
    inputs: int, outputs: int, options: Options, *, kernel: int = 3, stride: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, bias=not options.batch_norm
    )


def _norm(channels: int, options: Options) -> nn.Module:
    return nn.BatchNorm2d(channels) if options.batch_norm else nn.Identity()


def _halved(height: int, width: int) -> tuple[int, int]:
    if min(height, width) < 2:
        raise SnnRlError("the images are too small for this model's poolings")
    return height // 2, width // 2


def _last(model: NamedLayers) -> nn.Linear:
    layer = list(model)[-1]
    assert isinstance(layer, nn.Linear)
    return layer
