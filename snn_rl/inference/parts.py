"""The pieces of a plan as they come together: values, and the arrays that grow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from snn_rl.inference import plan
from snn_rl.inference.plan import Array


@dataclass(frozen=True)
class Value:
    """What an operation leaves for those behind it.

    Attributes:
        place, offset: the buffer that holds it, and where it begins there.
        shape: of one sample as torch has it, channels first.
        order: int64 [values]; value i of the plan is value order[i] of the flattened sample.
        static: the same at every timestep of a frame.
        largest, unit: its values are multiples of `unit`, none above `largest`; infinite where
            there is no such grid.
    """

    place: int
    offset: int
    shape: tuple[int, ...]
    order: NDArray[np.int64]
    static: bool
    largest: float
    unit: float

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass
class Parts:
    """Arrays of a plan under construction, and how much scratch its values need."""

    program: list[list[int]] = field(default_factory=list)
    weights: list[Array] = field(default_factory=list)
    whole: list[NDArray[np.int16]] = field(default_factory=list)
    tables: list[NDArray[np.uint32]] = field(default_factory=list)
    sums: list[Array] = field(default_factory=list)
    layers: list[plan.Layer] = field(default_factory=list)
    resting: list[Array] = field(default_factory=list)
    floats: int = 0
    accumulators: int = 0
    spikes: int = 0

    def operation(self, kind: int, fields: dict[int, int]) -> None:
        """Append an operation; fields that are not given are 0."""
        row = [0] * plan.WIDTH
        row[plan.KIND] = kind
        for index, value in fields.items():
            row[index] = int(value)
        self.program.append(row)

    def store(self, values: NDArray[np.generic]) -> int:
        """Keep weights; returns their offset."""
        offset = sum(len(kept) for kept in self.weights)
        self.weights.append(np.ascontiguousarray(values, np.float32).ravel())
        return offset

    def store_whole(self, values: NDArray[np.generic]) -> int:
        """Keep whole weights; returns their offset."""
        offset = sum(len(kept) for kept in self.whole)
        self.whole.append(np.ascontiguousarray(values, np.int16).ravel())
        return offset

    @property
    def table_end(self) -> int:
        """Where the next table will begin."""
        return sum(len(table) for table in self.tables)

    def scratch(self, size: int) -> int:
        """Room for floats, aligned to a cache line; returns its offset."""
        offset = self.floats
        self.floats += -(-size // 16) * 16
        return offset

    def accumulator(self, size: int) -> int:
        """Room for sums of whole weights; returns its offset."""
        offset = self.accumulators
        self.accumulators += -(-size // 16) * 16
        return offset

    def spike_bytes(self, size: int) -> int:
        """Room for spikes, one byte each, aligned to 64, one word of bits; returns its offset."""
        offset = self.spikes
        self.spikes += -(-size // 64) * 64
        return offset

    def frame_sums(self, initial: Array) -> int:
        """Sums that outlive a frame, and what they begin with; returns their offset."""
        offset = sum(len(kept) for kept in self.sums)
        self.sums.append(initial)
        return offset
