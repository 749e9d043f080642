"""What a frame takes in memory and arithmetic, engine by engine: the rows of the energy table.

Every row counts what its way to run the network really does; none gets another one's savings.

* ANN: every product; weights once, activations written and read.
* ANN, zeros skipped: products of activations that are not zero, and the weights that those touch.
* ANN, int8: the first row with weights and activations of one byte.
* one step after the other / one layer after the other: spikes add float32 weights, all of which are
  fetched (snn_rl.energy.report).
* event-driven: what snn_rl.inference does, one step after the other. The weights that spikes and
  changed pixels touch are fetched, 16 or 8 bits wide, and added as integers; the first layer's
  sums, every membrane, threshold and leak are read at every step, every membrane is written. The
  scales and additions of residual branches are left out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from snn_rl.energy.costs import LOCAL_PER_MAC, WORD, Costs
from snn_rl.energy.report import EnergyReport
from snn_rl.energy.traffic import Traffic

BYTE = 8 / WORD
"""Words of a byte."""


@dataclass(frozen=True)
class Work:
    """Of one frame. Words have 32 bits; a narrower number is the share of one.

    Attributes:
        multiplies: multiply-adds.
        additions: of spikes.
        weights, membranes: words of them that travel to or from the main memory.
        main: words of all kinds that do.
        local: words of the buffer beside the arithmetic.
        compute: energy of the arithmetic, pJ.
        total: with memory, pJ.
    """

    name: str
    multiplies: float
    additions: float
    weights: float
    membranes: float
    main: float
    local: float
    compute: float
    total: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def ann_work(report: EnergyReport, traffic: Traffic | None = None) -> list[Work]:
    """Rows of the ANN of a report's shape.

    Args:
        traffic: of that ANN, for the row that skips zeros; the report then has its densities.
    """
    costs, macs = report.costs, float(report.macs)
    moved = 2.0 * report.activations
    rows = [_ann("ANN", costs, macs, macs * costs.mac, report.weights, moved)]
    skipping = report.ann_zero_skipping_pj
    if traffic is not None and skipping is not None:
        weights = sum(traffic.weights.values())
        done = skipping / costs.mac
        rows.append(_ann("ANN, zeros skipped", costs, done, skipping, weights, moved))
    narrow = macs * costs.integer_mac
    rows.append(_ann("ANN, int8", costs, macs, narrow, BYTE * report.weights, BYTE * moved, BYTE))
    return rows


def spiking_work(report: EnergyReport, traffic: Traffic | None = None) -> list[Work]:
    """Rows of a spiking network.

    Args:
        traffic: of that network, for the event-driven rows.
    """
    costs, t = report.costs, report.timesteps
    rows = [
        _dense("one step after the other", report, t * report.weights, report.membrane_accesses,
               report.main_accesses, report.total_pj),
        _dense("one layer after the other", report, report.weights, report.carried_accesses,
               report.main_accesses_layerwise, report.total_layerwise_pj),
    ]  # fmt: skip
    if traffic is not None:
        rows += [_event(report, traffic, bits, costs) for bits in (16, 8)]
    return rows


def source_of_costs(costs: Costs) -> str:
    """What the rows charge for an operation and a word, and where that comes from."""
    return (
        f"pJ: float32 multiply-add {costs.mac:g}, addition {costs.accumulate:g}, multiplication "
        f"{costs.multiply:g}; 32-bit integer addition {costs.integer_add:g}, 8-bit multiply-add "
        f"{costs.integer_mac:g}; a 32-bit word of a local buffer {costs.local:g}, of the main "
        f"memory {costs.main:g}, narrower ones in proportion. Horowitz, ISSCC 2014 (45 nm)."
    )


def _ann(
    name: str,
    costs: Costs,
    macs: float,
    compute: float,
    weights: float,
    moved: float,
    width: float = 1.0,
) -> Work:
    local, main = width * LOCAL_PER_MAC * macs, weights + moved
    total = compute + local * costs.local + main * costs.main
    return Work(name, macs, 0.0, weights, 0.0, main, local, compute, total)


def _dense(
    name: str, report: EnergyReport, weights: float, membranes: float, main: float, total: float
) -> Work:
    local = report.local_accesses
    return Work(
        name, report.snn_macs, report.exact_acs, weights, membranes, main, local,
        report.exact_pj, total,
    )  # fmt: skip


def _event(report: EnergyReport, traffic: Traffic, bits: int, costs: Costs) -> Work:
    """The event-driven engine with weights of so many bits.

    A sum of weights stays in a register from its first to its last row, so that an addition reads
    its weight alone; it is then written, turned into a float and read by its neuron. The first
    layer's sums are float32, as are its weights.
    """
    steps = report.timesteps * report.neurons
    entered = {layer.name for layer in report.layers if layer.entering_rate is not None}
    narrow = bits / WORD
    weights = sum(w * (narrow if name in entered else 1) for name, w in traffic.weights.items())
    membranes = 2.0 * steps
    pixels = 0.0 if traffic.changed is None else 3 * BYTE * report.inputs  # seen, kept, rewritten
    main = weights + membranes + 2 * steps + report.first_outputs * report.timesteps + pixels
    spikes = steps * (BYTE + 2 / WORD)  # a byte, and a bit that is written and scanned
    local = narrow * report.exact_acs + 4 * steps + 3 * traffic.changed_macs + spikes
    compute = (
        traffic.changed_macs * costs.mac
        + report.exact_acs * costs.integer_add
        + steps * (2 * costs.multiply + 2 * costs.accumulate)  # to float and bias; leak and input
        + report.threshold_subtractions * costs.accumulate
    )
    total = compute + local * costs.local + main * costs.main
    return Work(
        f"event-driven, int{bits}", traffic.changed_macs, report.exact_acs, weights, membranes,
        main, local, compute, total,
    )  # fmt: skip
