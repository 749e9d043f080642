"""Where a spike's weights land: tables of the output positions that an input position reaches.

Rows of weights that follow each other in memory and land on outputs that do are one run. To make
runs long, a kernel's columns are stored in the order in which an input position meets them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """A sliding window over one or two axes; a linear layer is a window of one position.

    Attributes (height, width):
        size: of the input. out: of the output.
    """

    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def area(self) -> int:
        """Positions of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def columns(self) -> list[int]:
        """The kernel's columns as they are stored: those that one input meets, side by side."""
        apart = self.stride[1] // gcd(self.stride[1], self.dilation[1])
        return sorted(range(self.kernel[1]), key=lambda k: (k % apart, -k))

    def reached(self, axis: int, position: int) -> list[tuple[int, int]]:
        """(kernel index, output index) pairs that an input position takes part in, outputs
        ascending."""
        pairs = []
        for k in reversed(range(self.kernel[axis])):
            at = position + self.padding[axis] - k * self.dilation[axis]
            if at % self.stride[axis] == 0 and 0 <= at // self.stride[axis] < self.out[axis]:
                pairs.append((k, at // self.stride[axis]))
        return pairs


POINT = Window((1, 1), (1, 1), (1, 1), (1, 1), (0, 0), (1, 1))
"""The window of a linear layer."""


def channels_last(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Indices of [channels, height, width] in channels-last order; one axis as it is."""
    index = np.arange(int(np.prod(shape)))
    return index.reshape(shape[0], -1).T.ravel() if len(shape) == 3 else index


def window_of(options: Mapping[str, Any], size: tuple[int, ...]) -> Window:
    """The window of a convolution's or a pool's options over an image of `size`."""
    kernel = _pair(options["kernel_size"])
    pooled = "out_channels" not in options
    stride = _pair(options.get("stride") or (kernel if pooled else 1))
    padding, dilation = _pair(options.get("padding", 0)), _pair(options.get("dilation", 1))
    out = []
    for axis in (0, 1):
        room = size[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1
        steps = room // stride[axis]
        if options.get("ceil_mode", False):
            steps = -(-room // stride[axis])
            if steps * stride[axis] >= size[axis] + padding[axis]:
                steps -= 1  # the last window must begin inside, as torch has it
        out.append(steps + 1)
    return Window((size[0], size[1]), (out[0], out[1]), kernel, stride, padding, dilation)


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, list | tuple) else (value, value)
    return int(height), int(width)


def position_table(window: Window, row: int, out_channels: int, first: int) -> NDArray[np.uint32]:
    """Four bounds per input position (y from, y to, x from, x to), then what they bound.

    Those of y bound pairs (offset in a channel's weights, offset in the output), those of x triples
    (the same two, length of the run); the offsets of y and of x add up.

    Args:
        row: output channels of one group, the length of a row of weights.
        first: index at which this table will begin among all tables.
    """
    height, width = window.size
    entries: list[int] = []
    begin = first + 4 * height * width
    rows, columns = [], []
    for y in range(height):
        low = begin + len(entries)
        for k, at in window.reached(0, y):
            entries += [k * window.kernel[1] * row, at * window.out[1] * out_channels]
        rows.append((low, begin + len(entries)))
    for x in range(width):
        low = begin + len(entries)
        for run in _runs(window, x, row, out_channels):
            entries += run
        columns.append((low, begin + len(entries)))
    head = [bound for y in rows for x in columns for bound in (*y, *x)]
    return np.array(head + entries, np.uint32)


def _runs(window: Window, x: int, row: int, out_channels: int) -> list[list[int]]:
    """The runs that input column `x` adds: [offset in weights, offset in output, length]."""
    stored = {k: slot for slot, k in enumerate(window.columns)}
    runs: list[list[int]] = []
    for k, at in window.reached(1, x):
        weight, target = stored[k] * row, at * out_channels
        if runs and runs[-1][0] + runs[-1][2] == weight and runs[-1][1] + runs[-1][2] == target:
            runs[-1][2] += row
        else:
            runs.append([weight, target, row])
    return runs


def segment_table(window: Window, channels: int, first: int) -> NDArray[np.uint32]:
    """Two bounds per output position, then the triples that they bound: the input positions from
    and to which a segment goes, and what brings the index of an input to that of its weights.

    An input's index counts all inputs channels-last; weights lie as [ky, kx, in channel], in rows
    of output channels. Sums of an index and a constant are meant modulo 2^32. Windows only, not
    groups.

    Args:
        channels: of the input.
        first: index at which this table will begin among all tables.
    """
    entries: list[int] = []
    head: list[int] = []
    begin = first + 2 * window.out[0] * window.out[1]
    columns = [_reads(window, 1, at) for at in range(window.out[1])]
    for row in range(window.out[0]):
        ys = _reads(window, 0, row)
        for xs in columns:
            found: list[list[int]] = []
            for (ky, y), (kx, x) in product(ys, xs):
                position = y * window.size[1] + x
                shift = (ky * window.kernel[1] + kx - position) * channels % 2**32
                if found and found[-1][1:] == [position, shift]:
                    found[-1][1] += 1
                else:
                    found.append([position, position + 1, shift])
            head += [begin + len(entries), begin + len(entries) + 3 * len(found)]
            entries += [value for segment in found for value in segment]
    return np.array(head + entries, np.uint32)


def _reads(window: Window, axis: int, at: int) -> list[tuple[int, int]]:
    """(kernel index, input index) pairs that an output takes part in."""
    first = at * window.stride[axis] - window.padding[axis]
    places = ((k, first + k * window.dilation[axis]) for k in range(window.kernel[axis]))
    return [(k, place) for k, place in places if 0 <= place < window.size[axis]]
