"""A network as flat arrays: what one compiled function runs, whatever the network.

Values of one sample lie channels-last ([y, x, channel]), so that one spike adds contiguous rows;
the frame's pixels alone lie as they come ([channel, y, x]). A program has one row of integers per
operation, in order of execution; the fields are below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Primitives.
PIXELS = 0  # scatter of the pixels that changed since the last frame, onto the sums of that frame
DENSE = 1  # real-valued observation times weights, summed in float64, rounded once
SCATTER = 2  # the rows of the inputs that are not zero, and bias: convolution, linear, sum-pool
SCALE = 3  # one factor times spikes or floats
ADD = 4  # the sum of two values
LIF = 5  # leaky integrate-and-fire
READOUT = 6  # as SCATTER, summed over the timesteps, then the mean

# Where a value lies: the frame's pixels, the real-valued observation, spikes as bytes, floats that
# live for one frame, sums on the last frame seen.
IN_PIXELS, IN_OBSERVED, IN_SPIKES, IN_FLOATS, IN_SUMS = 0, 1, 2, 3, 4

# Fields of an operation.
KIND = 0
STATIC = 1  # 1: the same at every timestep of a frame
SOURCE = 2  # where its input begins
SOURCE_IN = 3  # which of the buffers holds it
INPUTS = 4  # values of the input
TARGET = 5  # where its output begins: sums of PIXELS, spikes of LIF, else floats
OUTPUTS = 6  # values of the output
WEIGHTS = 7  # offset of its weights [in channel, ky, kx, out channel of the group], whole numbers
# where its input is spikes; SCALE: offset of its factor
BIAS = 8  # offset of its bias [out channel]; of a LIF: of its thresholds [neuron]
TABLE = 9  # offset of its table of positions, see snn_rl.inference.positions
CHANNELS = 10  # input channels
KERNEL = 11  # weights per input channel
ROW = 12  # output channels of one group
PER_GROUP = 13  # input channels of one group
OUT_CHANNELS = 14
SECOND = 15  # ADD: where the second operand begins; LIF: offset of its leaks; spikes' weights: unit
SECOND_IN = 16
MEMBRANE = 17  # LIF: where its neurons begin among all neurons
ACCUMULATOR = 18  # where the sums of whole weights begin
SEGMENTS = 19  # offset of its table of segments, see snn_rl.inference.positions; 0: it has none
GATHERED = 20  # offset of its whole weights as [ky, kx, in channel, out channel]
POSITIONS = 21  # positions of the input where there are segments
WIDTH = 22


@dataclass(frozen=True)
class Layer:
    """A spiking layer: where its neurons lie among all, and their order.

    Attributes:
        shape: of the layer as the network's card has it, channels first.
        first: index of its first neuron in a plan's membranes.
        order: int64 [neurons]; neuron i of the plan is neuron order[i] of the flattened layer.
    """

    name: str
    shape: tuple[int, ...]
    first: int
    order: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.order)

    @property
    def neurons(self) -> slice:
        """Its part of all membranes."""
        return slice(self.first, self.first + self.size)


@dataclass(frozen=True)
class Plan:
    """All that running a network takes.

    Attributes:
        program: int64 [operations, WIDTH].
        weights: float32: biases, thresholds, leaks, and weights of inputs that are no spikes.
        whole: int16, the weights that spikes add, in units of their grid: half the memory to read.
        tables: uint32, see TABLE.
        layers: the spiking layers in order of execution.
        input_shape: one frame, before stacking.
        pixels: whether frames are uint8.
        stack: frames that the network sees at once.
        offset: grey level that counts as zero.
        sums: float32, what PIXELS holds for a frame of nothing but `offset`.
        floats, accumulators, spikes: scratch floats, int32 and bytes (a multiple of 8).
        resting: float32 [neurons], membranes where an episode begins.
        outputs: values of the read-out.
        most_timesteps: the largest T at which the read-out's sum is exact.
    """

    program: NDArray[np.int64]
    weights: Array
    whole: NDArray[np.int16]
    tables: NDArray[np.uint32]
    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]
    pixels: bool
    stack: int
    offset: int
    sums: Array
    floats: int
    accumulators: int
    spikes: int
    resting: Array
    outputs: int
    most_timesteps: int

    @property
    def neurons(self) -> int:
        """Number of spiking neurons."""
        return sum(layer.size for layer in self.layers)

    @property
    def inputs(self) -> int:
        """Values that the first layer reads: all stacked frames."""
        return self.stack * int(np.prod(self.input_shape))
