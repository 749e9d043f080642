"""Cost of a training step: spiking networks against the ANN of the same shape.

Method: one gradient step (forward, backward, optimiser) on 64 segments of 16 frames, the same
frames for all networks, in interleaved turns on the threads torch is set to; the median of the
repeats counts. The ANN sees the same segments as a plain batch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from snn_rl.agents.qnetwork import mlp, nature_cnn
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.options import NeuronOptions
from snn_rl.conversion.tracing import trace
from snn_rl.core.network import Network

SEGMENTS, FRAMES = 64, 16
TIMESTEPS = (1, 3, 5)


def training_step_ratios(repeats: int) -> list[dict[str, Any]]:
    """One row per network and T: milliseconds, ratio to the ANN, and ratio divided by T."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (FRAMES, SEGMENTS, 1, 84, 84), dtype=torch.uint8)
    vectors = torch.randn(FRAMES, SEGMENTS, 4)
    return [
        *_ratios("NatureCNN 84x84", trace(nature_cnn(1, 84, 6), (1, 84, 84), pixels=True), pixels,
                 repeats),
        *_ratios("CartPole MLP", trace(mlp(4, [128, 128], 2), (4,), pixels=False), vectors,
                 repeats),
    ]  # fmt: skip


def _ratios(name: str, ann: Network, frames: Tensor, repeats: int) -> list[dict[str, Any]]:
    options = NeuronOptions(leak="neuron", leak_low=0.02, leak_high=0.98)
    spiking = convert(
        ann, Calibration(frames[:4]), timesteps=1, carry_membrane=True, options=options
    )
    steppers = {"ann": _stepper(ann, frames, 1)}
    steppers |= {f"T{t}": _stepper(spiking, frames, t) for t in TIMESTEPS}
    times: dict[str, list[float]] = {key: [] for key in steppers}
    for repeat in range(repeats + 1):
        for key, step in steppers.items():
            began = time.perf_counter()
            step()
            if repeat:  # the first turn warms up and compiles
                times[key].append(1e3 * (time.perf_counter() - began))
    base = statistics.median(times["ann"])
    rows: list[dict[str, Any]] = [{"network": name, "stage": "ann", "T": 1, "ms": base}]
    for t in TIMESTEPS:
        found = statistics.median(times[f"T{t}"])
        ratio = found / base
        rows.append(
            {"network": name, "stage": f"T{t}", "T": t, "ms": found, "ratio": ratio,
             "ratio_per_T": ratio / t}
        )  # fmt: skip
    return rows


def _stepper(network: Network, frames: Tensor, timesteps: int) -> Callable[[], None]:
    """A function that makes one training step of its own copy of `network`."""
    network = network.clone()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, fused=True)
    start = torch.zeros(frames.shape[:2], dtype=torch.bool)

    def step() -> None:
        q, _ = network(frames, network.initial_state(frames.shape[1]), start, timesteps=timesteps)
        optimizer.zero_grad(set_to_none=True)
        q.square().mean().backward()
        optimizer.step()
        network.constrain()

    return step
