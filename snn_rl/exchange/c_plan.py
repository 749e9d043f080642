"""The part of a plan that the C runtime reads.

A plan holds what spikes bring to a layer twice, by input and by output, and the engine chooses. C
reads one of the two: by output, but by input where channels come in groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from snn_rl.inference import plan
from snn_rl.inference.plan import Plan

Row = NDArray[np.int64]


def slimmed(network: Plan) -> Plan:
    """The same network with one table and one copy of the weights per layer.

    TABLE and WEIGHTS are those of SEGMENTS and GATHERED where a layer had them. Sums of whole
    weights begin at accumulator 0, those of the read-out behind them. A row of zeros
    follows the weights of a layer that is summed up by output.
    """
    parts, program = _Parts(), network.program.copy()
    for row in program:
        if row[plan.KIND] in (plan.PIXELS, plan.SCATTER, plan.READOUT):
            _slim(row, network, parts)
    shared = max((_sums(row) for row in program if row[plan.KIND] == plan.SCATTER), default=0)
    program[-1, plan.ACCUMULATOR] = shared
    return replace(
        network,
        program=program,
        tables=np.concatenate(parts.tables),
        whole=np.concatenate([*parts.whole, np.zeros(0, np.int16)]),
        accumulators=shared + _sums(program[-1]),
    )


def gathers(row: Row) -> bool:
    """Whether an operation sums what spikes bring output by output."""
    weighted = row[plan.KIND] in (plan.SCATTER, plan.READOUT)
    grouped = row[plan.PER_GROUP] != row[plan.CHANNELS]
    return bool(weighted and row[plan.SOURCE_IN] == plan.IN_SPIKES and not grouped)


@dataclass
class _Parts:
    tables: list[NDArray[np.uint32]] = field(default_factory=list)
    whole: list[NDArray[np.int16]] = field(default_factory=list)


def _slim(row: Row, network: Plan, parts: _Parts) -> None:
    """Keep what one operation reads, and let it point there."""
    by_output = gathers(row)
    table, weights = row[plan.TABLE], row[plan.WEIGHTS]
    bounds = 4 * (row[plan.INPUTS] // row[plan.CHANNELS])
    if by_output:
        table, weights = row[plan.SEGMENTS], row[plan.GATHERED]
        bounds = 2 * (row[plan.OUTPUTS] // row[plan.OUT_CHANNELS])
    row[plan.TABLE] = sum(map(len, parts.tables))
    end = network.tables[table : table + bounds].max()
    kept = network.tables[table:end].copy()
    kept[:bounds] -= np.uint32(table) - np.uint32(row[plan.TABLE])  # modulo 2^32
    parts.tables.append(kept)
    if row[plan.SOURCE_IN] == plan.IN_SPIKES:
        row[plan.WEIGHTS] = sum(map(len, parts.whole))
        parts.whole.append(network.whole[weights:][: row[plan.CHANNELS] * row[plan.KERNEL]])
        if by_output:
            parts.whole.append(np.zeros(row[plan.OUT_CHANNELS], np.int16))
    row[[plan.SEGMENTS, plan.GATHERED, plan.ACCUMULATOR]] = 0


def _sums(row: Row) -> int:
    """Whole numbers that an operation adds up at once."""
    if row[plan.SOURCE_IN] != plan.IN_SPIKES:
        return 0
    return int(row[plan.OUT_CHANNELS] if gathers(row) else row[plan.OUTPUTS])
