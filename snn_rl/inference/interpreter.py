"""Runs a plan in plain NumPy, one operation after the other: what the compiled kernel is tested
against. It keeps no memo: the first layers see every pixel anew.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.inference import plan
from snn_rl.inference.plan import Array, Plan


def interpret(
    network: Plan, frame: NDArray[Any], membranes: Array, timesteps: int
) -> tuple[Array, Array]:
    """One frame of one environment.

    Args:
        frame: all stacked frames, flat; uint8 for pixels, else float32.
        membranes: [neurons] before this frame, in the plan's order.

    Returns:
        the read-out [outputs] and the membranes after the frame.
    """
    return _Interpreter(network, frame, membranes).run(timesteps)


class _Interpreter:
    def __init__(self, network: Plan, frame: NDArray[Any], membranes: Array) -> None:
        self.network, self.membranes = network, membranes.copy()
        pixels = frame.astype(np.float32) - np.float32(network.offset)
        self.buffers: dict[int, NDArray[Any]] = {
            plan.IN_PIXELS: pixels / np.float32(256),
            plan.IN_OBSERVED: frame,
            plan.IN_SPIKES: np.zeros(network.spikes, np.uint8),
            plan.IN_FLOATS: np.zeros(network.floats, np.float32),
            plan.IN_SUMS: network.sums.copy(),
        }

    def run(self, timesteps: int) -> tuple[Array, Array]:
        rows = list(self.network.program)
        for row in rows:
            if row[plan.STATIC]:
                self.execute(row)
        readout = rows[-1]
        total: Array = np.zeros(self.network.outputs, np.float32)
        for _ in range(timesteps):
            for row in rows:
                if not row[plan.STATIC]:
                    self.execute(row)
            total += self.scattered(readout)
        steps: Any = np.float32(timesteps)
        return (total + steps * self.bias(readout)) / steps, self.membranes

    def execute(self, row: NDArray[np.int64]) -> None:
        kind = row[plan.KIND]
        if kind == plan.LIF:
            self.fire(row)
            return
        x = self.source(row)
        if kind == plan.SCALE:
            y = x.astype(np.float32) * self.network.weights[row[plan.WEIGHTS]]
        elif kind == plan.ADD:
            y = x + self.slice(row[plan.SECOND_IN], row[plan.SECOND], row[plan.INPUTS])
        elif kind == plan.DENSE:
            shape = (row[plan.INPUTS], row[plan.OUTPUTS])
            weight = self.stored(row[plan.WEIGHTS], shape[0] * shape[1]).reshape(shape)
            y = (x.astype(np.float64) @ weight.astype(np.float64) + self.bias(row)).astype(
                np.float32
            )
        elif kind == plan.READOUT:
            return
        else:
            y = self.scattered(row) + np.tile(
                self.bias(row), row[plan.OUTPUTS] // row[plan.OUT_CHANNELS]
            )
        place = plan.IN_SUMS if kind == plan.PIXELS else plan.IN_FLOATS
        self.slice(place, row[plan.TARGET], row[plan.OUTPUTS])[:] = y

    def scattered(self, row: NDArray[np.int64]) -> Array:
        """Sums of the weights of all inputs that are not zero, without bias."""
        x, tables = self.source(row), self.network.tables.astype(np.int64)
        rows = self.network.weights
        if row[plan.SOURCE_IN] == plan.IN_SPIKES:
            rows = self.network.whole * self.network.weights[row[plan.SECOND]]
        total = np.zeros(row[plan.OUTPUTS], np.float32)
        positions = row[plan.INPUTS] // row[plan.CHANNELS]
        for i in np.flatnonzero(x):
            position, channel = divmod(i, row[plan.CHANNELS])
            if row[plan.SOURCE_IN] == plan.IN_PIXELS:
                channel, position = divmod(i, positions)
            base = row[plan.WEIGHTS] + channel * row[plan.KERNEL]
            group = channel // row[plan.PER_GROUP] * row[plan.ROW]
            y0, y1, x0, x1 = tables[row[plan.TABLE] + 4 * position :][:4]
            for j, k in product(range(y0, y1, 2), range(x0, x1, 3)):
                weight = base + tables[j] + tables[k]
                at, length = group + tables[j + 1] + tables[k + 1], tables[k + 2]
                total[at : at + length] += rows[weight : weight + length] * np.float32(x[i])
        return total

    def fire(self, row: NDArray[np.int64]) -> None:
        size = row[plan.OUTPUTS]
        membrane = self.membranes[row[plan.MEMBRANE] :][:size]
        threshold = self.stored(row[plan.BIAS], size)
        u = self.stored(row[plan.SECOND], size) * membrane + self.source(row)
        spikes = u > threshold
        self.slice(plan.IN_SPIKES, row[plan.TARGET], size)[:] = spikes
        membrane[:] = u - threshold * spikes

    def source(self, row: NDArray[np.int64]) -> NDArray[Any]:
        return self.slice(row[plan.SOURCE_IN], row[plan.SOURCE], row[plan.INPUTS])

    def slice(self, place: int, offset: int, size: int) -> NDArray[Any]:
        return self.buffers[int(place)][offset : offset + size]

    def stored(self, offset: int, size: int) -> Array:
        return self.network.weights[offset : offset + size]

    def bias(self, row: NDArray[np.int64]) -> Array:
        return self.stored(row[plan.BIAS], row[plan.OUT_CHANNELS])
