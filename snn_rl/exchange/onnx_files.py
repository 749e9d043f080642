"""Agents as ONNX files, through torch.export: one file, explicit state, any batch."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from snn_rl.core.network import Network
from snn_rl.exchange.exportable import Exportable
from snn_rl.exchange.extras import extra
from snn_rl.exchange.golden import Arrays, Step, torch_step
from snn_rl.exchange.one_frame import NEXT, OneFrame

FRAME, Q = "frame", "q"


def program(network: OneFrame) -> ExportedProgram:
    """The one-frame network as a torch.export program of any batch size."""
    batch = Dim("batch", min=1, max=2**16)
    example = network.example(2)
    shapes = ({0: batch}, tuple({0: batch} for _ in example[1]))
    return torch.export.export(network, example, dynamic_shapes=shapes, strict=False)


def export_onnx(model: Exportable, path: Path) -> None:
    """Write `path` (ONNX) and, with the suffix .pt2, the torch.export program it comes from.

    Inputs are "frame" and the state's tensors by name ("membrane_<layer>", "history"); outputs "q"
    and the next state ("..._next"). Zeros begin an episode, or where membranes start at half their
    threshold, what the trace has as "start.<name>".

    Raises:
        SnnRlError: a package is missing; names the command that installs it.
    """
    onnx = extra("onnx")
    extra("onnxscript", "onnx")
    network = model.one_frame()
    exported = program(network)
    names = network.state_names
    with _quiet():
        written = torch.onnx.export(
            exported,
            input_names=[FRAME, *names],
            output_names=[Q, *(f"{name}{NEXT}" for name in names)],
            dynamo=True,
            verbose=False,
        )
    assert written is not None
    proto = written.model_proto
    onnx.checker.check_model(proto, full_check=True)
    _describe(onnx, proto, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        onnx.save_model(proto, str(folder / path.name))
        other = path.with_suffix(".pt2")
        torch.export.save(exported, folder / other.name)
        for file in (other, path):
            (folder / file.name).replace(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def need_onnx_runtime() -> Any:
    """The package. Raises SnnRlError if it is missing, and with it a way to replay a file."""
    return extra("onnxruntime", "onnx")


def onnx_step(path: Path, network: OneFrame) -> Step:
    """ONNX Runtime on the file `path` that `network` was written to.

    Raises:
        SnnRlError: ONNX Runtime is missing.
    """
    names = network.state_names
    runtime = need_onnx_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [Q, *(f"{name}{NEXT}" for name in names)]

    def step(frame: NDArray[Any], state: Arrays) -> tuple[NDArray[np.float32], Arrays]:
        feed = {FRAME: frame, **dict(zip(names, state, strict=True))}
        q, *after = session.run(outputs, feed)
        return q, tuple(after)

    return step


def program_step(path: Path, network: OneFrame) -> Step:
    """The saved torch.export program `path` that `network` was written to; it needs no more, and
    takes the network as the steps of all formats do."""
    module = torch.export.load(path).module()
    return torch_step(module)


def _describe(onnx: Any, proto: Any, model: Exportable) -> None:
    """What a reader needs to know, in the file's own metadata."""
    environment = model.card["environment"]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:  # torch calls it s56
                axis.dim_param = "batch"
    onnx.helper.set_model_props(
        proto,
        {
            "environment": str(environment["env_id"]),
            "timesteps": str(model.timesteps),
            "carry_membrane": str(model.carry),
            "maxpool": str(bool(environment.get("maxpool", False))),
            "fire_reset": str(bool(environment.get("fire_reset", False))),
            "observation": json.dumps(model.card["observation"]),
            "state": f"feed every output NAME_next to the input NAME; {_beginning(model.network)}",
        },
    )
    proto.doc_string = f"snn-rl agent {model.title}"


def _beginning(network: Network) -> str:
    if any(layer.start for layer in network.spiking.values()):
        return "start.NAME of the golden trace begins an episode"
    return "zeros begin an episode"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own remarks."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
