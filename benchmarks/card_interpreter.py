"""A plain NumPy float32 interpreter of a saved agent: what its card says, and nothing else.

It shares no code with the package: no tracing, lowering, grid or kernel. One observation at a time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[Any]
FLOOR = np.float32(1e-3)
"""Thresholds are at least this."""
KEEPING = ("flatten", "dropout", "sumpool", "maxpool")
"""Operations that make whole numbers of spikes."""


class Interpreter:
    """Acts as a card says: `q_values` of one frame after the other.

    Attributes:
        spiking: whether it has neurons; then its Q-values are exact.
    """

    def __init__(self, folder: Path) -> None:
        self.card = json.loads((folder / "agent.json").read_text())
        grid = self.card["grid"]
        self.values = {}
        for name, value in load_file(folder / "weights.safetensors").items():
            layer = name.rpartition(".")[0]
            exact = value.dtype == np.int16
            self.values[name] = value.astype(np.float32)
            if exact:
                self.values[name] *= np.float32(2.0 ** -grid[layer])
        self.graph = self.card["graph"]
        self.spiking = any(node["op"] == "lif" for node in self.graph)
        self.timesteps = self.card["timesteps"] if self.spiking else 1
        self.real = set() if self.graph[0]["options"]["pixels"] else {self.graph[0]["name"]}
        for node in self.graph[1:]:  # values that are neither pixels nor spikes, nor sums of them
            keeps, reads = node["op"] in KEEPING, node["inputs"][0]
            if reads in self.real if keeps else node["op"] != "lif":
                self.real.add(node["name"])
        self.membranes: dict[str, Array] = {}
        self.frames: list[Array] = []

    def q_values(self, frame: Array) -> Array:
        """Q-values [actions] of the next frame, as the observation pipeline gives it."""
        first = self.graph[0]["options"]
        stack = first["stack"]
        if not self.frames:
            self.frames = [np.zeros_like(frame)] * stack
        self.frames = [*self.frames[1:], frame]
        seen = np.concatenate(self.frames[-stack:])
        if not self.card["carry_membrane"]:
            self.membranes = {}
        x: Array = seen.astype(np.float32)
        if first["pixels"]:
            x = (x - np.float32(first.get("offset", 0))) * np.float32(2.0**-8)
        last, inputs = self.graph[-1], []
        for _ in range(self.timesteps):
            found = self._timestep(x)
            inputs.append(found[last["inputs"][0] if last["op"] == "linear" else last["name"]])
        if last["op"] != "linear":
            return np.mean(inputs, axis=0, dtype=np.float32)
        if last["inputs"][0] in self.real:
            return self._sum(last["name"], np.mean(inputs, axis=0, dtype=np.float64), real=True)
        steps = np.float32(self.timesteps)
        return self._sum(last["name"], np.sum(inputs, axis=0), sums=self.timesteps) / steps

    def _timestep(self, x: Array) -> dict[str, Array]:
        """Values behind all nodes but a linear read-out."""
        found = {self.graph[0]["name"]: x}
        for node in self.graph[1:]:
            if node is not self.graph[-1] or node["op"] != "linear":
                found[node["name"]] = self._run(node, [found[name] for name in node["inputs"]])
        return found

    def _run(self, node: dict[str, Any], inputs: list[Array]) -> Array:
        x, options, name = inputs[0], node["options"], node["name"]
        real = bool(node["inputs"]) and node["inputs"][0] in self.real
        match node["op"]:
            case "linear":
                return self._sum(name, x, real=real)
            case "conv":
                return self._conv(name, options, x, real)
            case "lif":
                return self._spikes(name, x)
            case "relu":
                return np.maximum(x, np.float32(0))
            case "add":
                return np.asarray(x + inputs[1])
            case "scale":
                return np.asarray(x * self.values[f"{name}.weight"])
            case "flatten":
                return x.reshape(-1)
            case "dropout":
                return x
            case "sumpool" | "avgpool" | "maxpool":
                windows = _windows(
                    x,
                    _pair(options["kernel_size"]),
                    _pair(options.get("stride") or options["kernel_size"]),
                )
                how = {"sumpool": np.sum, "avgpool": np.mean, "maxpool": np.max}[node["op"]]
                pooled: Array = how(windows, axis=(-2, -1))
                return pooled.astype(np.float32)
        raise ValueError(f"this interpreter does not know the operation {node['op']!r}")

    def _sum(self, name: str, x: Array, *, real: bool = False, sums: int = 1) -> Array:
        """W x + sums b over the last axis; of values on no grid in float64, rounded once."""
        kind = np.float64 if real else np.float32
        result = x.astype(kind) @ self.values[f"{name}.weight"].astype(kind).T
        if f"{name}.bias" in self.values:
            result = result + kind(sums) * self.values[f"{name}.bias"].astype(kind)
        return np.asarray(result, np.float32)

    def _conv(self, name: str, options: dict[str, Any], x: Array, real: bool) -> Array:
        weight, padding = self.values[f"{name}.weight"], _pair(options.get("padding", 0))
        x = np.pad(x, ((0, 0), *((p, p) for p in padding)))
        kernel, stride = weight.shape[2:], _pair(options.get("stride", 1))
        windows = _windows(x, kernel, stride, _pair(options.get("dilation", 1)))
        groups = options.get("groups", 1)
        kind = np.float64 if real else np.float32
        outs = []
        for w, part in zip(np.split(weight, groups), np.split(windows, groups), strict=True):
            flat = np.moveaxis(part, 0, 2).reshape(*part.shape[1:3], -1).astype(kind)
            outs.append(np.moveaxis(flat @ w.reshape(len(w), -1).T.astype(kind), -1, 0))
        result = np.concatenate(outs)
        if f"{name}.bias" in self.values:
            result = result + self.values[f"{name}.bias"].astype(kind)[:, None, None]
        return np.asarray(result, np.float32)

    def _spikes(self, name: str, current: Array) -> Array:
        threshold = np.maximum(self.values[f"{name}.threshold"], FLOOR)
        leak = np.clip(self.values[f"{name}.leak"], np.float32(0), np.float32(1))
        before = self.membranes.get(name, np.zeros_like(current))
        membrane = leak * before + current
        spikes = (membrane > threshold).astype(np.float32)
        self.membranes[name] = membrane - threshold * spikes
        return spikes


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _windows(
    x: Array, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> Array:
    """Windows [channels, rows, columns, height, width] of [channels, height, width]."""
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    every = np.lib.stride_tricks.sliding_window_view(x, reach, (1, 2))
    return every[:, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
