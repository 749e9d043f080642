"""The operations that networks are made of: one frozen dataclass each.

An operation says what it is: its parameters, the shape that it gives, its multiply-accumulates,
and what becomes of spikes in it. How a target runs it stands in that target's own file (torch:
`snn_rl.core.execute`). The same operations describe an ANN (ReLU, AvgPool2d) and the spiking
network that it becomes (LIFNeurons, SumPool2d, Scale). Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from snn_rl.errors import SnnRlError

Shape = tuple[int, ...]
Pair = tuple[int, int]
"""Height and width; in JSON also one number for both."""
Granularity = Literal["layer", "channel", "neuron"]
"""One trainable number per layer, per channel (first axis of the shape), or per neuron."""


class Range(NamedTuple):
    """What values can be: multiples of `unit`, a power of two, up to `largest` in magnitude."""

    largest: float
    unit: float


REAL = Range(math.inf, 1.0)
"""Values without a bound that the weight grid could use."""
PIXEL_UNIT = 2.0**-8
"""Raw uint8 pixels count in units of 1/256: folded into a layer it is exact; 1/255 would round."""


@dataclass(frozen=True)
class Operation:
    """What all operations answer. Shapes are of one sample, without batch or time.

    Attributes:
        kind: its name in JSON.
        arity: how many values it reads.
        weighted: its weights can absorb a factor on its input.
        keeps_values: its output holds the values of its input, at most in another shape.
        counts_spikes: where whole spikes enter, whole numbers of them come out, so that what a
            spike stands for can be folded into the weights behind it.
        passes_spikes: its output is zero wherever no spike enters; it adds no operations.
    """

    kind: ClassVar[str]
    arity: ClassVar[int] = 1
    weighted: ClassVar[bool] = False
    keeps_values: ClassVar[bool] = False
    counts_spikes: ClassVar[bool] = False
    passes_spikes: ClassVar[bool] = False

    def shape(self, *inputs: Shape) -> Shape:
        """Shape of the output. Raises SnnRlError where the inputs do not fit."""
        return inputs[0]

    def macs(self, *inputs: Shape) -> int:
        """Multiply-accumulates on a dense input, padding included."""
        return 0

    def weights(self) -> int:
        """Number of weights, biases left out."""
        return 0

    def values(self, *entering: Range) -> Range:
        """What the output's values can be, given those of the inputs (spikes are 0 or 1)."""
        return entering[0] if self.keeps_values else REAL

    def options(self) -> dict[str, Any]:
        """Parameters as JSON; `snn_rl.core.graph.read_operation` reverses it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Input(Operation):
    """The observation: `stack` frames of `frame`, side by side on the first axis.

    Pixels are uint8 and count from grey level `offset` in units of 1/256.
    """

    frame: Shape
    pixels: bool
    stack: int = 1
    offset: int = field(default=0, metadata={"low": 0, "high": 255})
    kind: ClassVar[str] = "input"
    arity: ClassVar[int] = 0

    def shape(self, *inputs: Shape) -> Shape:
        """Stacked frames side by side on the first axis."""
        return (self.stack * self.frame[0], *self.frame[1:])

    def values(self, *entering: Range) -> Range:
        """Pixels lie on a grid, real-valued observations on none."""
        return Range(255 * PIXEL_UNIT, PIXEL_UNIT) if self.pixels else REAL

    def options(self) -> dict[str, Any]:
        """As the format names them: `shape` is that of a frame."""
        options = super().options()
        return {"shape": options.pop("frame"), **options}


@dataclass(frozen=True)
class Linear(Operation):
    """y = W x + b over the last axis."""

    in_features: int
    out_features: int
    bias: bool = True
    kind: ClassVar[str] = "linear"
    weighted: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        """The last axis becomes `out_features`."""
        (shape,) = inputs
        if shape[-1] != self.in_features:
            raise SnnRlError(f"a linear layer of {self.in_features} inputs reads {shape[-1]}")
        return (*shape[:-1], self.out_features)

    def macs(self, *inputs: Shape) -> int:
        """One per weight (and row)."""
        return math.prod(self.shape(*inputs)) * self.in_features

    def weights(self) -> int:
        """in_features * out_features."""
        return self.in_features * self.out_features


@dataclass(frozen=True)
class Conv2d(Operation):
    """Two-dimensional cross-correlation of [channels, height, width] with zero padding."""

    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = field(default=(0, 0), metadata={"low": 0})
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = True
    kind: ClassVar[str] = "conv"
    weighted: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        """[out_channels, height, width]."""
        channels, *plane = _image(inputs[0], "a convolution")
        if channels != self.in_channels or channels % self.groups:
            raise SnnRlError(f"a convolution of {self.in_channels} channels reads {channels}")
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        padded = [n + 2 * p for n, p in zip(plane, self.padding, strict=True)]
        return (self.out_channels, *_windows(padded, reach, self.stride))

    def macs(self, *inputs: Shape) -> int:
        """One per weight that an output reads."""
        return math.prod(self.shape(*inputs)) * (self.weights() // self.out_channels)

    def weights(self) -> int:
        """out_channels * in_channels / groups * height * width of the kernel."""
        return self.out_channels * (self.in_channels // self.groups) * math.prod(self.kernel_size)


@dataclass(frozen=True)
class BatchNorm(Operation):
    """Batch-norm over channels of images (`dimensions` 2) or over features (1); ANNs alone."""

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    dimensions: int = field(default=2, metadata={"high": 2})
    kind: ClassVar[str] = "batchnorm"


@dataclass(frozen=True)
class ReLU(Operation):
    """max(x, 0); becomes neurons."""

    kind: ClassVar[str] = "relu"


@dataclass(frozen=True)
class Neurons(Operation):
    """Neurons of shape `neurons` that spike; what they do between is a kind's own.

    Membranes start at `start` times their threshold: 0, or 0.5 (contract, 17).
    """

    neurons: Shape
    threshold: Granularity
    leak: Granularity
    start: float = 0.0

    def shape(self, *inputs: Shape) -> Shape:
        """One spike per neuron."""
        if inputs[0] != self.neurons:
            raise SnnRlError(f"neurons of shape {self.neurons} read values of shape {inputs[0]}")
        return self.neurons

    def values(self, *entering: Range) -> Range:
        """Spikes are 0 or 1."""
        return Range(1.0, 1.0)

    def options(self) -> dict[str, Any]:
        """As the format names them: `shape` is that of the neurons; no start is one at 0."""
        options = super().options()
        if not self.start:
            del options["start"]
        return {"shape": options.pop("neurons"), **options}


@dataclass(frozen=True)
class LIFNeurons(Neurons):
    """Leaky integrate-and-fire; see `snn_rl.core.scan`."""

    kind: ClassVar[str] = "lif"


@dataclass(frozen=True)
class AdaptiveNeurons(Neurons):
    """The same with a threshold that every spike raises; see `snn_rl.core.adaptive`."""

    kind: ClassVar[str] = "adaptive_lif"


@dataclass(frozen=True)
class _Pool(Operation):
    kernel_size: Pair
    stride: Pair | None = None
    passes_spikes: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        """[channels, height, width]; the stride is the kernel's size by default."""
        channels, *plane = _image(inputs[0], "pooling")
        return (channels, *_windows(plane, self.kernel_size, self.stride or self.kernel_size))

    @property
    def area(self) -> int:
        """Values in a window."""
        return math.prod(self.kernel_size)


@dataclass(frozen=True)
class AvgPool2d(_Pool):
    """Mean over windows; of spikes it becomes SumPool2d."""

    kind: ClassVar[str] = "avgpool"


@dataclass(frozen=True)
class SumPool2d(_Pool):
    """Average-pooling of spikes, its 1/area folded into the layers behind it."""

    kind: ClassVar[str] = "sumpool"
    counts_spikes: ClassVar[bool] = True

    def values(self, *entering: Range) -> Range:
        """Up to `area` spikes."""
        return Range(entering[0].largest * self.area, entering[0].unit)


@dataclass(frozen=True)
class MaxPool2d(_Pool):
    """Maximum over windows; of spikes it is their OR, whose rate lies between the highest of the
    window and the sum of all: a conversion approaches its ANN with average-pooling alone."""

    kind: ClassVar[str] = "maxpool"
    counts_spikes: ClassVar[bool] = True

    def values(self, *entering: Range) -> Range:
        """Those that enter."""
        return entering[0]


@dataclass(frozen=True)
class Flatten(Operation):
    """All axes into one."""

    kind: ClassVar[str] = "flatten"
    keeps_values: ClassVar[bool] = True
    counts_spikes: ClassVar[bool] = True
    passes_spikes: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        """[features]."""
        return (math.prod(inputs[0]),)


@dataclass(frozen=True)
class Dropout(Operation):
    """Zeroes values with probability `p` in training; one mask for all timesteps of a frame.

    With `channels` whole channels of images (Tompson et al. 2015).
    """

    p: float = 0.5
    channels: bool = False
    kind: ClassVar[str] = "dropout"
    keeps_values: ClassVar[bool] = True
    counts_spikes: ClassVar[bool] = True
    passes_spikes: ClassVar[bool] = True

    def options(self) -> dict[str, Any]:
        """`channels` only where it is so: files without it stay readable by older versions."""
        options = super().options()
        return options if self.channels else {"p": self.p}


@dataclass(frozen=True)
class Add(Operation):
    """Sum of two values of one shape, as at a residual block's end."""

    kind: ClassVar[str] = "add"
    arity: ClassVar[int] = 2

    def shape(self, *inputs: Shape) -> Shape:
        """That of both inputs."""
        if inputs[0] != inputs[1]:
            raise SnnRlError(f"an addition reads values of shapes {inputs[0]} and {inputs[1]}")
        return inputs[0]


@dataclass(frozen=True)
class Scale(Operation):
    """Trainable factors, the amplitudes of spikes that enter an addition: one for all, or of the
    shape `factors`, which broadcasts to the input's."""

    factors: Shape | None = None
    kind: ClassVar[str] = "scale"
    passes_spikes: ClassVar[bool] = True

    def options(self) -> dict[str, Any]:
        """`factors` only where there are several."""
        return super().options() if self.factors else {}


OPERATIONS: tuple[type[Operation], ...] = (
    Input,
    Linear,
    Conv2d,
    BatchNorm,
    ReLU,
    LIFNeurons,
    AdaptiveNeurons,
    AvgPool2d,
    SumPool2d,
    MaxPool2d,
    Flatten,
    Dropout,
    Add,
    Scale,
)
"""All there are; a target has a function for each, or refuses it by name."""


def _image(shape: Shape, reader: str) -> Shape:
    if len(shape) != 3:
        raise SnnRlError(f"{reader} reads values of shape {shape}, not [channels, height, width]")
    return shape


def _windows(plane: Sequence[int], reach: Sequence[int], stride: Sequence[int]) -> Shape:
    """How many windows fit along height and width."""
    found = tuple((n - r) // s + 1 for n, r, s in zip(plane, reach, stride, strict=True))
    if min(found) < 1:
        raise SnnRlError(f"a window of {tuple(reach)} does not fit in {tuple(plane)}")
    return found
