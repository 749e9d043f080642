"""Forward and backward of a layer of LIF neurons, beside other libraries' where they are installed.

Method: the same input, threshold 1, soft reset and one leak for all neurons, which gives the same
spikes; gradients of the input; interleaved turns on one thread, of CALLS calls each after one that
does not count, since it finds caches and memory as another contender left them; the median of the
processor's time counts, which other work on the machine touches least.
SpikingJelly's neuron runs all steps in one call, the others' are stepped. All have a surrogate of
the arctan's kind, Norse SuperSpike. No input reaches the threshold: snnTorch
would reset twice, and SpikingJelly spikes at the threshold itself.
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from snn_rl.core.scan import lif_scan
from snn_rl.core.surrogates import Surrogate

SHAPES: tuple[tuple[int, ...], ...] = ((32, 1024), (32, 3136), (64, 32, 20, 20))
"""Of a timestep: batch first."""
TIMESTEPS = (1, 2, 5, 10)
LEAK, TAU = 0.75, 4.0
"""The same: leak = 1 - 1 / tau."""
WARM_UP, CALLS = 2, 5

Layer = Callable[[Tensor], Tensor]
"""From input [T, batch, ...] to spikes of that shape, from membranes at zero."""


def lif_times(
    repeats: int,
    timesteps: Sequence[int] = TIMESTEPS,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
) -> list[dict[str, Any]]:
    """One row per contender, shape and T: milliseconds forward and backward, and time over ours.

    Args:
        repeats: turns of each contender that count.
    """
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        for count in timesteps:
            rows += _rows(count, shape, repeats)
    return rows


def contenders() -> dict[str, Layer]:
    """Ours first, then those of the libraries that are installed."""
    found: dict[str, Layer] = {"snn-rl": _ours()}
    rivals = {"SpikingJelly": _spikingjelly, "snnTorch": _snntorch, "Norse": _norse}
    for name, build in rivals.items():
        try:
            found[name] = build()
        except ImportError:  # it, or something that it needs, is not installed
            continue
    return found


def _rows(timesteps: int, shape: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    layers = contenders()
    generator = torch.Generator().manual_seed(0)
    current = (torch.randn(timesteps, *shape, generator=generator) * 0.6 + 0.3).clamp(max=0.99)
    weight = torch.randn(current.shape, generator=generator)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in layers}
    for turn in range(repeats + WARM_UP):
        for name, layer in layers.items():
            taken = [_call(layer, current, weight) for _ in range(1 + CALLS)]
            if turn >= WARM_UP:
                times[name] += taken[1:]
    medians = {
        name: tuple(1e3 * statistics.median(part) for part in zip(*turns, strict=True))
        for name, turns in times.items()
    }
    base = sum(medians["snn-rl"])
    return [
        {
            "contender": name,
            "T": timesteps,
            "shape": list(shape),
            "forward_ms": forward,
            "backward_ms": backward,
            "ratio": (forward + backward) / base,
            "load": os.getloadavg()[0],
        }
        for name, (forward, backward) in medians.items()
    ]


def _call(layer: Layer, current: Tensor, weight: Tensor) -> tuple[float, float]:
    """Seconds forward and backward."""
    x = current.clone().requires_grad_()
    began = time.process_time()
    spikes = layer(x)
    halfway = time.process_time()
    spikes.backward(weight)  # type: ignore[no-untyped-call]
    return halfway - began, time.process_time() - halfway


def _ours() -> Layer:
    threshold, leak, surrogate = torch.ones(1), torch.full((1,), LEAK), Surrogate("arctan")

    def layer(current: Tensor) -> Tensor:
        membrane = current.new_zeros(current.shape[1:])
        frame, steps = current.unsqueeze(0), len(current)
        spikes, _ = lif_scan(frame, membrane, threshold, leak, timesteps=steps, surrogate=surrogate)
        return spikes.squeeze(0)

    return layer


def _spikingjelly() -> Layer:
    kind: Any = importlib.import_module("spikingjelly.activation_based.neuron").LIFNode
    atan: Any = importlib.import_module("spikingjelly.activation_based.surrogate").ATan
    neuron = kind(
        tau=TAU, decay_input=False, v_reset=None, detach_reset=True, step_mode="m",
        surrogate_function=atan(alpha=2.0),
    )  # fmt: skip

    def layer(current: Tensor) -> Tensor:
        neuron.reset()
        spikes: Tensor = neuron(current)
        return spikes

    return layer


def _snntorch() -> Layer:
    snntorch: Any = importlib.import_module("snntorch")
    atan: Any = importlib.import_module("snntorch.surrogate").atan
    neuron = snntorch.Leaky(
        beta=LEAK, threshold=1.0, reset_mechanism="subtract", reset_delay=False,
        spike_grad=atan(alpha=2.0),
    )  # fmt: skip

    def layer(current: Tensor) -> Tensor:
        membrane, spikes = torch.zeros_like(current[0]), []
        for x in current:
            spike, membrane = neuron(x, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return layer


def _norse() -> Layer:
    functional: Any = importlib.import_module("norse.torch.functional.lif_box")
    subtract: Any = importlib.import_module("norse.torch.functional.reset").reset_subtract
    parameters = functional.LIFBoxParameters(
        tau_mem_inv=torch.tensor(1000.0 / TAU), v_th=torch.tensor(1.0), method="super",
        reset_method=subtract,
    )  # fmt: skip

    def layer(current: Tensor) -> Tensor:
        state, spikes = functional.LIFBoxFeedForwardState(v=torch.zeros_like(current[0])), []
        for x in current:
            spike, state = functional.lif_box_feed_forward_step(TAU * x, state, parameters)
            spikes.append(spike)
        return torch.stack(spikes)

    return layer
