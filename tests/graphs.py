"""Layer graphs as a file has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snn_rl.core.graph import Node, node_from_dict


def node_of(
    name: str, kind: str, inputs: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> Node:
    return node_from_dict(
        {"name": name, "op": kind, "inputs": list(inputs), "options": dict(options or {})}
    )
