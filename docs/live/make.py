"""The live page's folder: its static files, and weights.js with an agent of the zoo.

python docs/live/make.py build/docs-extra/live
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.loading import load_agent
from snn_rl.core.operations import Input, LIFNeurons, Linear

AGENT = "zoo:PositionOnlyCartPole-v1/T1"
STATIC = ("index.html", "style.css", "network.js", "cartpole.js", "drawing.js", "page.js")


def main(out: Path) -> None:
    """Write the page into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name in STATIC:
        shutil.copy2(Path(__file__).parent / name, out / name)
    text = json.dumps(weights(AGENT), separators=(",", ":"))
    (out / "weights.js").write_text(f'"use strict";\nconst WEIGHTS = {text};\n', encoding="utf-8")


def weights(name: str) -> dict[str, Any]:
    """A saved agent's layers as network.js reads them.

    Raises:
        SystemExit: an agent that the page cannot show: only linear layers at T = 1 are written.
    """
    agent = load_agent(name)
    network = agent.policy.network
    kinds = {type(node.operation) for node in network.nodes}
    if agent.timesteps != 1 or network.stack != 1 or kinds != {Input, Linear, LIFNeurons}:
        raise SystemExit(f"{name} is not an agent of linear layers at T = 1")
    layers: list[dict[str, Any]] = []
    for node in network.nodes:
        layer: Any = dict(network.layers).get(node.name)
        if isinstance(node.operation, Linear):
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            k = _grid(weight, bias)
            layers.append({"inputs": weight.shape[1], "outputs": weight.shape[0], "k": k})
            layers[-1] |= {"weight": _whole(weight, k), "bias": _whole(bias, k)}
        elif isinstance(node.operation, LIFNeurons):
            for key in ("threshold", "leak"):
                value = getattr(layer, key).detach().expand(layer.shape).numpy()
                layers[-1][key] = _base64(value.astype("<f4"))
            layers[-1]["start"] = float(node.operation.options().get("start", 0))
    scale = [float(s) for s in agent.pipeline.scale or (1.0,) * network.input_shape[0]]
    return {"agent": name, "scale": scale, "layers": layers}


def _grid(weight: NDArray[Any], bias: NDArray[Any]) -> int:
    """Smallest k for which all values are whole multiples of 2**-k."""
    values = np.concatenate([weight.ravel(), bias]).astype(np.float64)
    for k in range(-16, 64):
        if not np.any(np.modf(values * 2.0**k)[0]):
            return k
    raise SystemExit("the weights lie on no grid")


def _whole(values: NDArray[Any], k: int) -> str:
    scaled = values.astype(np.float64) * 2.0**k
    if np.abs(scaled).max() > np.iinfo(np.int16).max:
        raise SystemExit("the weights do not fit in 16 bits")
    return _base64(scaled.astype("<i2"))


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
