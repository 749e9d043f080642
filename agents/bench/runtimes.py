"""The runtimes that race an ANN against the event-driven engine, and how well their models play."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.acting import EngineName
from snn_rl.agents.agent import Agent
from snn_rl.agents.bench import onnx_ann
from snn_rl.agents.conditions import every_start, trained_in
from snn_rl.agents.evaluation import evaluate
from snn_rl.core.network import Network
from snn_rl.runs.provenance import processor_flags

CALIBRATION = 500
"""Frames on which an int8 model's ranges are measured."""

Model = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Stacked input [1, ...] of `snn_rl.agents.bench.onnx_ann.as_input` -> Q-values [1, actions]."""


def ann_models(network: Network, seen: NDArray[Any]) -> dict[str, Model]:
    """An ANN in the runtimes that are installed, by name: ONNX Runtime, and OpenVINO where somebody
    has installed it, in int8 where nncf is, too. Int8 ranges are those of the frames `seen`."""
    if not onnx_ann.available():
        return {}
    key = network.nodes[0].name
    inputs = [onnx_ann.as_input(network, x) for x in stacked(seen, network.stack)]
    plain = onnx_ann.ann_model(network)
    int8 = onnx_ann.quantised(plain, key, inputs, "avx512_vnni" not in processor_flags())
    models = {
        "ONNX Runtime fp32": runs(plain, key),
        "ONNX Runtime int8": runs(int8, key),
    }
    if installed("openvino"):
        read = openvino_model(plain)
        models |= {
            "OpenVINO fp32": runs_in_openvino(read, "f32"),
            "OpenVINO bf16": runs_in_openvino(read, "bf16"),
        }
        if installed("nncf"):
            models["OpenVINO int8"] = runs_in_openvino(quantised_by_nncf(read, inputs), "f32")
    return models


def score(agent: Agent, model: Model) -> float:
    """Mean score of a model over all starts of its agent's environment.

    Raises:
        UnsupportedEnvironment: it cannot be played from all of its starts.
    """
    world = trained_in(agent)
    actor = ModelActor(agent.policy.network, model)
    seeds = every_start(agent.env_id, world)
    return evaluate(actor, agent.env_id, agent.pipeline, seeds, world).mean


def stacked(seen: NDArray[Any], stack: int) -> list[NDArray[Any]]:
    """What a network sees of one episode that looks at `stack` frames at once: zeros before it."""
    frames = np.concatenate([np.zeros((stack - 1, *seen.shape[1:]), seen.dtype), seen])
    return [np.concatenate(frames[i : i + stack]) for i in range(len(seen))]


def runs(model: Any, key: str) -> Model:
    """A model in ONNX Runtime, on one thread; `key` names its input."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: np.asarray(session.run(None, {key: x})[0])


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def openvino_model(model: Any) -> Any:
    """An ONNX model as OpenVINO reads it."""
    openvino: Any = importlib.import_module("openvino")
    return openvino.Core().read_model(model.SerializeToString(), b"")


def quantised_by_nncf(model: Any, inputs: Sequence[NDArray[np.float32]]) -> Any:
    """OpenVINO's model in int8 by its own tool, at that tool's settings."""
    nncf: Any = importlib.import_module("nncf")
    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(sys.stderr):  # its progress
        return nncf.quantize(model, nncf.Dataset(inputs), subset_size=len(inputs))


def runs_in_openvino(model: Any, precision: str) -> Model:
    """OpenVINO's model on one thread; precision "f32" or "bf16" of what is not int8."""
    openvino: Any = importlib.import_module("openvino")
    options = {
        "INFERENCE_NUM_THREADS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    return lambda x: np.asarray(next(iter(request.infer([x]).values())))


class ModelActor:
    """A model that plays, one environment after the other; see Actor. Its state is the frames
    before this one, [batch, stack - 1, *input_shape]."""

    engine: EngineName = "torch"
    timesteps, carry_membrane, privileged, spiking = 1, False, False, False

    def __init__(self, network: Network, model: Model) -> None:
        self.network, self.model = network, model

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One frame."""
        return self.network.input_shape

    def initial_state(self, batch: int) -> NDArray[Any]:
        """No frames yet."""
        kind = np.uint8 if self.network.pixels else np.float32
        return np.zeros((batch, self.network.stack - 1, *self.input_shape), kind)

    def q_values(
        self,
        frames: NDArray[Any],
        state: NDArray[Any],
        start: NDArray[np.bool_],
        on_spikes: Any = None,
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Q-values [batch, actions] and the new state."""
        kept = np.where(start.reshape(-1, *[1] * (state.ndim - 1)), 0, state).astype(state.dtype)
        seen = np.concatenate([kept, frames[:, None]], 1)
        q = np.concatenate([self.model(onnx_ann.as_input(self.network, x)) for x in seen])
        return q, seen[:, 1:]

    def select(self, state: NDArray[Any], rows: NDArray[np.bool_]) -> NDArray[Any]:
        """The state of those environments alone."""
        return state[rows]

    def to_arrays(self, state: Any) -> Any:
        """The state itself."""
        return state

    def from_arrays(self, arrays: Any) -> Any:
        """The state itself."""
        return arrays

    def with_options(self, timesteps: int, carry_membrane: bool) -> ModelActor:
        """The same: an ANN knows neither."""
        return self
