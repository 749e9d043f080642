"""How the neurons of a converted network start out, and which kinds of them there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from snn_rl.core.adaptive import AdaptiveLIF
from snn_rl.core.neuron import SpikingLayer
from snn_rl.core.operations import AdaptiveNeurons, Granularity, LIFNeurons, Neurons, Shape
from snn_rl.core.surrogates import Surrogate

Kind = Literal["lif", "adaptive"]
KINDS: dict[Kind, type[Neurons]] = {"lif": LIFNeurons, "adaptive": AdaptiveNeurons}
"""Neurons by the name that options have for them."""


@dataclass(frozen=True)
class NeuronOptions:
    """How the neurons of a converted network start out and what is trainable in them.

    Attributes:
        threshold, leak: one trainable number per layer, channel or neuron.
        leak_low, leak_high: what membranes keep from frame to frame at the start, spread evenly
            over this range: leak ** timesteps. A network without memory across frames takes 1 and
            1; carried membranes need less than 1.
        percentile: of the positive values on the calibration data, see `balance`.
        balance: one percentile per layer, or one per channel, which suits conversion without
            training; then there are thresholds per channel at least.
        start: thresholds that membranes begin with: 0, or 0.5, which halves the rounding of a
            conversion without training (Bu et al. 2022) where membranes are not carried.
        surrogate: gradient of the spike.
        kind: "lif", or "adaptive" neurons, whose threshold every spike raises.
        adaptation: by how much it does at the start, as a share of the threshold.
        adaptation_leak: what remains of that from frame to frame at the start.
    """

    threshold: Granularity = "layer"
    leak: Granularity = "layer"
    leak_low: float = 1.0
    leak_high: float = 1.0
    percentile: float = 90.0
    balance: Literal["layer", "channel"] = "layer"
    start: float = 0.0
    surrogate: Surrogate = field(default_factory=Surrogate)
    kind: Kind = "lif"
    adaptation: float = 0.1
    adaptation_leak: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.leak_low <= self.leak_high <= 1:
            raise ValueError("leaks must satisfy 0 <= leak_low <= leak_high <= 1")
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile must lie in (0, 100], not {self.percentile}")
        if self.kind not in KINDS:
            raise ValueError(f"neurons are of kind {' or '.join(KINDS)}, not {self.kind!r}")
        if self.adaptation < 0 or not 0 <= self.adaptation_leak <= 1:
            raise ValueError("adaptation must be at least 0, adaptation_leak between 0 and 1")
        if self.start not in (0.0, 0.5):
            raise ValueError(f"membranes start at 0 or 0.5 thresholds, not {self.start}")
        if self.balance == "channel" and self.threshold == "layer":
            raise ValueError("balance per channel needs threshold 'channel' or 'neuron'")

    def neurons(self, shape: Shape) -> Neurons:
        """The operation that takes a ReLU's place."""
        return KINDS[self.kind](shape, self.threshold, self.leak, self.start)

    def initialise(self, layer: SpikingLayer) -> None:
        """Set the leaks of a layer, and what else its kind of neuron starts with, as they are from
        frame to frame; thresholds come from data (`snn_rl.conversion.convert.balance`)."""
        layer.spread_leak(self.leak_low, self.leak_high)
        if isinstance(layer, AdaptiveLIF):
            layer.begin(self.adaptation, self.adaptation_leak)
