"""Energy of one inference (one frame): the paper's compute-only figure and what it leaves out.

Eq. 4 of Chowdhury, Rathi and Roy 2022 compares an ANN with the spiking network of its shape:

    alpha = sum_q MAC_q * 4.6  /  (MAC_1 * 4.6 + sum_{q>=2} rate_q * MAC_q * 0.9)        [pJ]

rate_q: spikes per neuron per frame, summed over the timesteps, of the spikes that enter layer q.
Layers that read the analog observation multiply, once per frame (their input is the same at all
timesteps); layers that read spikes accumulate. Beside it stand three wider counts:

* exact: each spike costs its true fan-out (at a border of a convolution less than inside; before
  a 2x2 pooling a full fan-out, since 1/4 is folded into the weights), plus the neurons' own work.
* ANN with zero-skipping: ReLU is sparse too.
* with memory: every operation reads its operands from a small buffer, and weights, membranes and
  activations travel from a large one. Compute alone flatters spiking networks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from snn_rl.energy.costs import LOCAL_PER_AC, LOCAL_PER_MAC, WORD, Costs


@dataclass(frozen=True)
class LayerEnergy:
    """Operations of one layer per frame.

    Attributes:
        macs: multiply-accumulates of the ANN. 0 for the scale of a shortcut: the ANN only adds
            there, while every spike adds its amplitude to one membrane (in `exact_acs`).
        entering_rate: spikes per neuron per frame that enter it; None for real-valued input.
        acs: accumulates by Eq. 4, entering_rate * macs.
        exact_acs: accumulates by the fan-out of every spike.
        snn_macs: multiply-accumulates of the network as it runs (0 where spikes enter).
        density: share of non-zero inputs in the ANN; None if not given.
    """

    name: str
    macs: int
    entering_rate: float | None
    acs: float
    exact_acs: float
    snn_macs: int
    density: float | None = None


@dataclass(frozen=True)
class EnergyReport:
    """Energy per frame of a network and of the ANN of its shape. For an ANN both are the same.

    Attributes:
        spikes: per frame, over all neurons.
        neurons: spiking neurons, each with a membrane.
        adapting: those among them whose threshold adapts, a second number to keep.
        adapting_spikes: per frame, of those.
        activations: values that hidden layers pass on: spiking neurons, or ReLU outputs.
        weights: without biases.
        inputs: values that the network reads, all stacked frames.
        first_outputs: of the layers that read them.
    """

    timesteps: int
    carry_membrane: bool
    layers: tuple[LayerEnergy, ...]
    spikes: float
    neurons: int
    activations: int
    weights: int
    adapting: int = 0
    adapting_spikes: float = 0.0
    inputs: int = 0
    first_outputs: int = 0
    costs: Costs = field(default_factory=Costs)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the ANN."""
        return sum(layer.macs for layer in self.layers)

    @property
    def snn_macs(self) -> int:
        """Multiply-accumulates of the network as it runs."""
        return sum(layer.snn_macs for layer in self.layers)

    @property
    def exact_acs(self) -> float:
        """Accumulates by the fan-out of every spike."""
        return sum(layer.exact_acs for layer in self.layers)

    @property
    def mean_rate(self) -> float:
        """Spikes per neuron per frame over all spiking neurons; 0 for an ANN."""
        return self.spikes / self.neurons if self.neurons else 0.0

    @property
    def ann_pj(self) -> float:
        """Compute energy of the ANN, pJ (numerator of Eq. 4)."""
        return self.macs * self.costs.mac

    @property
    def snn_pj(self) -> float:
        """Compute energy of the network, pJ (denominator of Eq. 4)."""
        acs = sum(layer.acs for layer in self.layers)
        return self.snn_macs * self.costs.mac + acs * self.costs.accumulate

    @property
    def alpha(self) -> float:
        """Eq. 4: how many times less compute energy than the ANN; 1 for an ANN."""
        return self.ann_pj / self.snn_pj

    @property
    def leak_multiplies(self) -> int:
        """u * leak, once per neuron and timestep; none on a membrane that starts at zero. Where
        thresholds adapt, likewise what is left of their raise."""
        return (self.neurons + self.adapting) * self._steps_on_something

    @property
    def adaptation_multiplies(self) -> int:
        """threshold * raise, once per adapting neuron and timestep on a raise that is not zero."""
        return self.adapting * self._steps_on_something

    @property
    def adaptation_additions(self) -> float:
        """Of that product to the threshold, and of every spike to the raise."""
        return self.adaptation_multiplies + self.adapting_spikes

    @property
    def _steps_on_something(self) -> int:
        """Timesteps of a frame that find what an earlier one left."""
        return self.timesteps - (not self.carry_membrane)

    @property
    def threshold_subtractions(self) -> float:
        """One per spike (soft reset)."""
        return self.spikes

    @property
    def exact_pj(self) -> float:
        """Compute energy of the network with exact fan-outs and the neurons' work, pJ."""
        costs = self.costs
        return (
            self.snn_macs * costs.mac
            + (self.exact_acs + self.threshold_subtractions) * costs.accumulate
            + self.adaptation_additions * costs.accumulate
            + (self.leak_multiplies + self.adaptation_multiplies) * costs.multiply
        )

    @property
    def alpha_exact(self) -> float:
        """`alpha` with `exact_pj` as the network's energy."""
        return self.ann_pj / self.exact_pj

    @property
    def ann_zero_skipping_pj(self) -> float | None:
        """Compute energy of an ANN that skips zero inputs, pJ; None without densities."""
        if all(layer.density is None for layer in self.layers):
            return None
        shares = (1.0 if layer.density is None else layer.density for layer in self.layers)
        macs = sum(layer.macs * share for layer, share in zip(self.layers, shares, strict=True))
        return macs * self.costs.mac

    @property
    def membrane_accesses(self) -> int:
        """Membrane words read and written in main memory; T = 1 without carry has none."""
        return 2 * self.leak_multiplies

    @property
    def main_accesses(self) -> float:
        """Main memory words, one timestep after the other: weights are fetched at each."""
        return self.timesteps * self.weights + self.membrane_accesses + self._activation_accesses

    @property
    def main_accesses_layerwise(self) -> float:
        """Main memory words, one layer after the other: a layer finishes all timesteps at once,
        so weights are fetched, and carried membranes read and written, once per frame."""
        return self.weights + self.carried_accesses + self._activation_accesses

    @property
    def carried_accesses(self) -> int:
        """Membrane words read and written once per frame, where they are carried."""
        return 2 * (self.neurons + self.adapting) if self.carry_membrane else 0

    @property
    def local_accesses(self) -> float:
        """Words of the buffer beside the arithmetic that operations read and write."""
        return LOCAL_PER_MAC * self.snn_macs + LOCAL_PER_AC * self.exact_acs

    @property
    def _activation_accesses(self) -> float:
        """Words written by one layer and read by the next: floats, or one bit per spike."""
        per_value = self.timesteps / WORD if self.neurons else 1
        return 2 * self.activations * per_value

    @property
    def access_ratio(self) -> float:
        """Memory accesses over those at T = 1, as the paper counts them."""
        return access_ratio(self.weights, self.neurons, self.timesteps)

    @property
    def ann_total_pj(self) -> float:
        """Energy of the ANN with memory, pJ."""
        local = LOCAL_PER_MAC * self.macs * self.costs.local
        return self.ann_pj + local + (self.weights + 2 * self.activations) * self.costs.main

    @property
    def total_pj(self) -> float:
        """Energy of the network with memory, timestep after timestep, pJ."""
        return self._with_memory(self.main_accesses)

    @property
    def total_layerwise_pj(self) -> float:
        """Energy of the network with memory, layer after layer, pJ."""
        return self._with_memory(self.main_accesses_layerwise)

    @property
    def alpha_total(self) -> float:
        """How many times less energy than the ANN, memory included."""
        return self.ann_total_pj / self.total_pj

    def _with_memory(self, main_accesses: float) -> float:
        return (
            self.exact_pj + self.local_accesses * self.costs.local + main_accesses * self.costs.main
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything above as plain data for JSON."""
        derived = [name for name, kind in vars(EnergyReport).items() if isinstance(kind, property)]
        return asdict(self) | {n: getattr(self, n) for n in derived if not n.startswith("_")}


def access_ratio(weights: int, neurons: int, timesteps: int) -> float:
    """(T*W + (T-1)*V) / W: memory accesses at T timesteps over those at one (the paper, 5.2).

    Weights are fetched at every timestep and a membrane between two timesteps counts once.
    """
    return (timesteps * weights + (timesteps - 1) * neurons) / weights
