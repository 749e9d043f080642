"""Where a spike's weights land: tables of the output positions that an input position reaches."""

from __future__ import annotations

from dataclasses import dataclass

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

    def reached(self, axis: int, position: int) -> list[tuple[int, int]]:
        """(kernel index, output index) pairs that an input position takes part in."""
        pairs = []
        for k in range(self.kernel[axis]):
            at = position + self.padding[axis] - k * self.dilation[axis]
            if at % self.stride[axis] == 0 and 0 <= at // self.stride[axis] < self.out[axis]:
                pairs.append((k, at // self.stride[axis]))
        return pairs


POINT = Window((1, 1), (1, 1), (1, 1), (1, 1), (0, 0), (1, 1))
"""The window of a linear layer."""


def position_table(window: Window, row: int, out_channels: int, first: int) -> NDArray[np.int32]:
    """Four bounds per input position (y from, y to, x from, x to), then the pairs they bound.

    Each pair is (offset in a channel's weights, offset in the output); those of y and of x add up.

    Args:
        row: output channels of one group, the length of a row of weights.
        first: index at which this table will begin among all tables.
    """
    height, width = window.size
    pairs: list[int] = []
    begin = first + 4 * height * width
    bounds: list[list[tuple[int, int]]] = []
    strides = ((window.kernel[1] * row, window.out[1] * out_channels), (row, out_channels))
    for axis, (in_weights, in_output) in enumerate(strides):
        bounds.append([])
        for position in range(window.size[axis]):
            low = begin + len(pairs)
            for k, at in window.reached(axis, position):
                pairs += [k * in_weights, at * in_output]
            bounds[axis].append((low, begin + len(pairs)))
    head = [b for y in bounds[0] for x in bounds[1] for b in (*y, *x)]
    return np.array(head + pairs, np.int32)
