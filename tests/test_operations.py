"""Operations: what JSON gives is validated, shapes are torch's, and torch runs every one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import node_of
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_rl.core import execute, operations
from snn_rl.core.graph import check, ranges, read_operation
from snn_rl.core.operations import OPERATIONS, Operation
from snn_rl.energy import counts
from snn_rl.errors import SnnRlError
from snn_rl.exchange import nir_files, one_frame
from snn_rl.inference import lowering

OF_THE_NETWORK = (operations.Input, operations.LIFNeurons, operations.AdaptiveNeurons)
"""What needs state, time or pixels is run by the network itself."""
ANN = (operations.ReLU, operations.BatchNorm)
TARGETS: dict[str, tuple[Any, tuple[type[Operation], ...]]] = {
    "torch": (execute.run, OF_THE_NETWORK),
    "ONNX and torch.export": (one_frame.evaluate, OF_THE_NETWORK),
    "NIR": (
        nir_files.counterpart,
        # Input and sums are written as edges, dropout not at all.
        (*ANN, operations.Input, operations.Add, operations.Dropout, operations.MaxPool2d,
         operations.AdaptiveNeurons),
    ),
    "engine and C": (
        lowering.lowered,
        (*ANN, operations.AvgPool2d, operations.MaxPool2d, operations.AdaptiveNeurons),
    ),
    "energy": (counts.spikes_in, ()),
}  # fmt: skip
"""What dispatches on operations, and those that it refuses by name."""
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.kind)
def test_every_target_has_an_operation_or_refuses_it(
    operation: type[Operation], target: str
) -> None:
    function, refused = TARGETS[target]
    has = function.dispatch(operation) is not function.dispatch(Operation)
    assert has == (operation not in refused)


def test_kinds_are_unique() -> None:
    kinds = [operation.kind for operation in OPERATIONS]
    assert len(set(kinds)) == len(kinds)


@settings(deadline=None)
@given(
    kernel=PAIRS,
    stride=PAIRS,
    dilation=PAIRS,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    groups=st.sampled_from([1, 2]),
    plane=st.tuples(st.integers(7, 12), st.integers(7, 12)),
)
def test_a_convolution_s_shape_weights_and_macs_are_torch_s(
    kernel: Any, stride: Any, dilation: Any, padding: Any, groups: int, plane: Any
) -> None:
    conv = operations.Conv2d(4, 6, kernel, stride, padding, dilation, groups)
    layer: Any = execute.build(conv)
    outputs = tuple(layer(torch.zeros(1, 4, *plane)).shape[1:])
    assert conv.shape((4, *plane)) == outputs
    assert conv.weights() == layer.weight.numel()
    assert conv.macs((4, *plane)) == layer.weight[0].numel() * torch.Size(outputs).numel()
    assert read_operation("conv", conv.options()) == conv


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("fly", {}, "unknown operation 'fly'"),
        ("linear", {"in_features": 3}, "linear without out_features"),
        ("linear", {"in_features": 3, "out_features": 0}, "out_features is '0'"),
        ("linear", {"in_features": 3, "out_features": True}, "out_features is 'True'"),
        ("linear", {"in_features": 3, "out_features": 2, "bias": 1}, "bias is '1'"),
        ("linear", {"in_features": 10**9, "out_features": 2}, "in_features is '1000000000'"),
        ("linear", {"in_features": 3, "out_features": 2, "speed": 9}, "no option 'speed'"),
        ("input", {"shape": [-1], "pixels": False}, "shape is"),
        ("input", {"shape": [3], "pixels": False, "stack": 0}, "stack is '0'"),
        ("input", {"shape": [3], "pixels": "no"}, "pixels is 'no'"),
        ("input", {"shape": [3], "pixels": True, "offset": 256}, "offset is '256'"),
        ("dropout", {"p": float("inf")}, "p is 'inf'"),
        ("lif", {"shape": [3], "threshold": "layer", "leak": "galaxy"}, "leak is 'galaxy'"),
        ("avgpool", {"kernel_size": [2, 2, 2]}, "kernel_size is"),
    ],
)
def test_nonsense_is_refused_by_name(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SnnRlError, match=message):
        read_operation(kind, options)


def test_layers_that_do_not_fit_are_named() -> None:
    nodes = [
        node_of("input", "input", (), {"shape": [3], "pixels": False}),
        node_of("fc", "linear", ("input",), {"in_features": 4, "out_features": 2}),
    ]
    with pytest.raises(SnnRlError, match="layer 'fc': a linear layer of 4 inputs reads 3"):
        check(nodes)


def test_ranges_follow_pixels_spikes_and_sums() -> None:
    lif = {"threshold": "layer", "leak": "layer"}
    nodes = [
        node_of("input", "input", (), {"shape": [1, 4, 4], "pixels": True}),
        node_of("fired", "lif", ("input",), {"shape": [1, 4, 4], **lif}),
        node_of("pool", "sumpool", ("fired",), {"kernel_size": [2, 1]}),
        node_of("flat", "flatten", ("pool",)),
        node_of("scaled", "scale", ("flat",)),
    ]
    found = ranges(nodes)
    assert found["input"] == (255 / 256, 1 / 256)
    assert found["fired"] == (1, 1)
    assert found["pool"] == found["flat"] == (2, 1)
    assert found["scaled"] == operations.REAL
