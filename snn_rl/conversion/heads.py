"""Linear ends of a network, such as the dueling head, as one linear layer per branch.

What comes after the last layers may combine their outputs in any linear way (value + advantage -
advantage.mean(1, keepdim=True), a factor, a shift, a concatenation): its matrix is found by trying.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from snn_rl.conversion.tracer import BATCH, attribute, compute, example
from snn_rl.errors import ConversionError

_LINEAR = frozenset(
    re.findall(
        r"\w+",
        """
        add iadd radd sub isub rsub subtract mul imul multiply truediv div neg
        mean sum expand expand_as unsqueeze squeeze repeat cat getitem
        """,
    )
)
"""Names of functions and methods that may combine the last layers' outputs."""


@dataclass(frozen=True)
class Head:
    """The linear end of a network.

    Attributes:
        nodes: fx nodes that it replaces, in order.
        leaves: fx nodes of the linear layers that it combines.
        matrices: [outputs, leaf's outputs] each; float64.
        shift: [outputs].
    """

    nodes: list[fx.Node]
    leaves: list[fx.Node]
    matrices: list[Tensor]
    shift: Tensor

    def layer(self, index: int, layer: nn.Linear) -> nn.Linear:
        """The linear layer of leaf `index` with its part of the head folded in."""
        device = layer.weight.device
        matrix, shift = self.matrices[index].to(device), self.shift.to(device)
        bias = shift if index == 0 else torch.zeros_like(shift)
        if layer.bias is not None:
            bias = bias + matrix @ layer.bias.data.double()
        with torch.random.fork_rng(devices=[]):
            made = nn.Linear(layer.in_features, len(shift), device=device)
        made.weight.data.copy_(matrix @ layer.weight.data.double())
        made.bias.data.copy_(bias)
        return made


def find_head(traced: fx.GraphModule) -> Head | None:
    """The linear end of a traced module; None if it plainly ends in a layer.

    Raises:
        ConversionError: the end combines layers, but not linearly, or mixes samples of a batch.
    """
    (output,) = traced.graph.find_nodes(op="output")
    end = output.args[0]
    if not isinstance(end, fx.Node):
        return None
    found = _walk_back(end)
    nodes = [node for node in traced.graph.nodes if node in found]
    inputs = dict.fromkeys(source for node in nodes for source in node.all_input_nodes)
    leaves = [node for node in inputs if node not in found and node.op != "get_attr"]
    modules = dict(traced.named_modules())
    plain = all(
        leaf.op == "call_module"
        and isinstance(modules[str(leaf.target)], nn.Linear)
        and all(user in found for user in leaf.users)
        for leaf in leaves
    )
    if not nodes or not plain or example(end).dim() != 2:
        return None
    return _solve(traced, nodes, leaves)


def _walk_back(end: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = [end]
    while pending:
        node = pending.pop()
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op in ("call_function", "call_method") and name in _LINEAR and node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return found


def _solve(traced: fx.GraphModule, nodes: list[fx.Node], leaves: list[fx.Node]) -> Head:
    sizes = [int(example(leaf).shape[1]) for leaf in leaves]
    outputs = example(nodes[-1]).shape[1]

    def run(values: list[Tensor]) -> Tensor:
        return _evaluate(traced, nodes, dict(zip(leaves, values, strict=True)))

    shift = run([torch.zeros(BATCH, size, dtype=torch.float64, device="cpu") for size in sizes])[0]
    matrices = []
    for index, size in enumerate(sizes):
        columns = []
        for unit in torch.eye(size, dtype=torch.float64, device="cpu"):
            values = [
                torch.zeros(BATCH, other, dtype=torch.float64, device="cpu") for other in sizes
            ]
            values[index][:] = unit
            columns.append(run(values)[0] - shift)
        matrices.append(torch.stack(columns, 1))
    generator = torch.Generator().manual_seed(0)
    values = [
        torch.randn(BATCH, n, generator=generator, dtype=torch.float64, device="cpu") for n in sizes
    ]
    wanted = shift + sum(v @ m.T for v, m in zip(values, matrices, strict=True))
    if wanted.shape != (BATCH, outputs) or not torch.allclose(run(values), wanted):
        names = ", ".join(f"'{leaf.target}'" for leaf in leaves)
        raise ConversionError(
            f"what follows {names} is not linear, or mixes the samples of a batch: take means over "
            "the actions alone, e.g. advantage.mean(1, keepdim=True)"
        )
    return Head(nodes, leaves, matrices, shift)


def _evaluate(
    traced: fx.GraphModule, nodes: list[fx.Node], values: dict[fx.Node, Tensor]
) -> Tensor:
    """What the last of `nodes` computes from the leaves' values."""
    known: dict[fx.Node, Any] = dict(values)

    def value(node: fx.Node) -> Any:
        return known[node] if node in known else constant(traced, node)

    for node in nodes:
        known[node] = compute(node, value)
    result: Tensor = known[nodes[-1]]
    return result


def constant(traced: fx.GraphModule, node: fx.Node) -> Tensor:
    """The buffer or plain tensor that a node stands for, in float64 on the CPU.

    Raises:
        ConversionError: it is a parameter, which nothing would train any more.
    """
    found = attribute(traced, node.target)
    if isinstance(found, nn.Parameter) or not isinstance(found, Tensor):
        raise ConversionError(
            f"'{node.target}' is used as a bare parameter: make it a layer's weight or a buffer"
        )
    return found.cpu().double()
