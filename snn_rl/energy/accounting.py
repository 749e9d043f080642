"""The energy report of a network: what its layers do, given the spikes that it made."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from snn_rl.core.network import Network
from snn_rl.energy.costs import Costs
from snn_rl.energy.counts import LayerReads, rates_per_neuron
from snn_rl.energy.report import EnergyReport, LayerEnergy
from snn_rl.errors import SnnRlError


def energy_report(
    network: Network,
    timesteps: int = 1,
    spike_rates: Mapping[str, float | Tensor] | None = None,
    *,
    carry_membrane: bool = False,
    densities: Mapping[str, float] | None = None,
    costs: Costs | None = None,
) -> EnergyReport:
    """Energy per frame of `network`, an ANN or spiking.

    Args:
        timesteps: T per frame; an ANN always has one.
        spike_rates: spikes per neuron per frame, summed over T, for every spiking layer by name:
            the mean, or one number per neuron (tensor of the layer's shape; a mean spreads evenly).
        carry_membrane: membranes survive from frame to frame.
        densities: share of non-zero activations in the ANN by node name (ReLU and spiking layers
            have the same names). Pooling keeps the share unless the pooled node is named too.
        costs: energy per operation and access.

    Raises:
        SnnRlError: rates or densities that are missing, of an unknown layer or impossible.
    """
    if timesteps < 1:
        raise SnnRlError(f"timesteps must be at least 1, not {timesteps}")
    timesteps = timesteps if network.spiking else 1
    rates = rates_per_neuron(network, timesteps, spike_rates or {})
    reads = LayerReads(network)
    densities = densities or {}
    if unknown := sorted(densities.keys() - reads.shapes.keys()):
        raise SnnRlError(f"densities are given for {unknown}, which the network does not have")
    if not all(0 <= density <= 1 for density in densities.values()):
        raise SnnRlError("densities are shares: each must lie between 0 and 1")
    layers = []
    for node in network.nodes:
        if not reads.costs_operations(node):
            continue
        macs = reads.macs(node)
        events = reads.events(node)
        density = reads.density(node, densities) if densities else None
        if events is None:
            snn_macs = macs * (timesteps if reads.varies(node) else 1)
            layers.append(LayerEnergy(node.name, macs, None, 0.0, 0.0, snn_macs, density))
            continue
        rate = sum(float(rates[source].mean()) for source in events)
        exact = sum(float((rates[source] * fan_out).sum()) for source, fan_out in events.items())
        layers.append(LayerEnergy(node.name, macs, rate, rate * macs, exact, 0, density))
    adapting = {n: layer.size for n, layer in network.spiking.items() if len(layer.variables) > 1}
    return EnergyReport(
        timesteps=timesteps,
        carry_membrane=carry_membrane and bool(network.spiking),
        layers=tuple(layers),
        spikes=sum(float(rate.sum()) for rate in rates.values()),
        neurons=sum(layer.size for layer in network.spiking.values()),
        activations=reads.activations(),
        weights=reads.weights(),
        adapting=sum(adapting.values()),
        adapting_spikes=sum(float(rates[name].sum()) for name in adapting),
        inputs=reads.inputs(),
        first_outputs=reads.first_outputs(),
        costs=costs or Costs(),
    )
