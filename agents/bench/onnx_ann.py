"""An ANN as an ONNX model, in float32 and in int8."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.core.graph import Node
from snn_rl.core.network import Network
from snn_rl.core.operations import PIXEL_UNIT, Conv2d, Flatten, Linear, ReLU
from snn_rl.errors import SnnRlError


def available() -> bool:
    """Whether onnx and onnxruntime are installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


def ann_model(network: Network) -> Any:
    """ONNX model of an ANN of convolutions, linear layers and ReLU, batch 1, stacked input.

    Pixels come as float32 that counts from the network's grey level in units of 1/256.

    Raises:
        SnnRlError: the network holds another operation.
    """
    helper, types = _module("onnx.helper"), _module("onnx").TensorProto
    from_array = _module("onnx.numpy_helper").from_array
    nodes = [_operation(node, helper) for node in network.nodes[1:]]
    values = {name: p.detach().numpy() for name, p in network.layers.named_parameters()}
    shapes = network.shapes
    first, last = network.nodes[0].name, network.nodes[-1].name
    graph = helper.make_graph(
        nodes,
        "ann",
        [helper.make_tensor_value_info(
            first, types.FLOAT, [1, *network.stacked_shape()]
        )],
        [helper.make_tensor_value_info(last, types.FLOAT, [1, *shapes[last]])],
        [from_array(np.ascontiguousarray(v), name) for name, v in values.items()],
    )  # fmt: skip
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def quantised(
    model: Any, key: str, inputs: Sequence[NDArray[np.float32]], reduce_range: bool
) -> Any:
    """The model in int8, statically quantised per channel (QDQ), its ranges those of `inputs`.

    Args:
        key: name of the model's input.
        reduce_range: 7 bits, which a processor without VNNI needs not to overflow.
    """
    onnx, tools = _module("onnx"), _module("onnxruntime.quantization")

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = iter(inputs)

        def get_next(self) -> dict[str, Any] | None:
            x = next(self.left, None)
            return None if x is None else {key: x}

    logging.disable(logging.WARNING)  # it recommends pre-processing that such models do not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            onnx.save(model, str(source))
            tools.quantize_static(
                source, target, Reader(), quant_format=tools.QuantFormat.QDQ, per_channel=True,
                reduce_range=reduce_range, activation_type=tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
            )  # fmt: skip
            return onnx.load(str(target))
    finally:
        logging.disable(logging.NOTSET)


def as_input(network: Network, frame: NDArray[Any]) -> NDArray[np.float32]:
    """A stacked frame as `ann_model` takes it, [1, ...]."""
    values = frame.reshape(1, *network.stacked_shape()).astype(np.float32)
    if network.pixels:
        values = (values - np.float32(network.offset)) * np.float32(PIXEL_UNIT)
    return values


def _module(name: str) -> Any:
    return importlib.import_module(name)  # untyped, and present only with an extra


def _operation(node: Node, helper: Any) -> Any:
    source, operation = node.inputs[0], node.operation
    weighted = [source, f"{node.name}.weight", f"{node.name}.bias"]
    if isinstance(operation, Linear | Conv2d) and not operation.bias:
        weighted.pop()
    match operation:
        case Linear():
            return helper.make_node("Gemm", weighted, [node.name], node.name, transB=1)
        case Conv2d():
            return helper.make_node(
                "Conv", weighted, [node.name], node.name, group=operation.groups,
                kernel_shape=operation.kernel_size, strides=operation.stride,
                dilations=operation.dilation, pads=[*operation.padding, *operation.padding],
            )  # fmt: skip
        case ReLU():
            return helper.make_node("Relu", [source], [node.name], node.name)
        case Flatten():
            return helper.make_node("Flatten", [source], [node.name], node.name)
        case _:
            raise SnnRlError(
                f"the ONNX rival lacks operation {operation.kind!r} of layer {node.name!r}"
            )
