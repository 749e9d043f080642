"""Surrogate gradients: what stands in for the derivative of a spike, a step, in training.

A surrogate is a function of z = u/v, membrane over threshold. Two are shipped; any other function
trains with its own gradient as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from snn_rl.errors import SnnRlError

Function = Callable[[Tensor, float], Tensor]
"""Pseudo-derivative of the spike at z = u/v (any shape), of steepness or height gamma."""


def triangle(z: Tensor, gamma: float) -> Tensor:
    """gamma * max(0, 1 - |z - 1|): the paper's, with gamma 0.3."""
    return gamma * (1 - (z - 1).abs()).clamp_min(0)


def arctan(z: Tensor, gamma: float) -> Tensor:
    """gamma/2 / (1 + (pi/2 * gamma * (z - 1))^2): Fang et al. 2021, with gamma 2."""
    return 0.5 * gamma / (1 + (0.5 * math.pi * gamma * (z - 1)) ** 2)


Shipped = Literal["triangle", "arctan"]
"""What settings can name."""
SHIPPED: dict[str, tuple[Function, float]] = {"triangle": (triangle, 0.3), "arctan": (arctan, 2.0)}
"""Functions by name, and the gamma that each has by default."""


@dataclass(frozen=True)
class Surrogate:
    """A surrogate by name, e.g. Surrogate("arctan"), or your own: Surrogate("mine", 1.0, function).

    Cards keep name and gamma. A name that is not known here loads and acts; training on needs its
    function.

    Attributes:
        kind: its name.
        gamma: steepness or height, positive; by default that of a shipped surrogate, else 1.
        function: by default that of a shipped surrogate.

    Raises:
        ValueError: gamma is not positive, or the name is empty.
    """

    kind: str = "triangle"
    gamma: float | None = None
    function: Function | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.kind, str) and self.kind.isprintable() and 0 < len(self.kind) < 80):
            raise ValueError("a surrogate needs a name")
        function, gamma = SHIPPED.get(self.kind, (None, 1.0))
        if self.function is not None and self.kind in SHIPPED:
            raise ValueError(f"the surrogate {self.kind!r} is shipped: give yours another name")
        object.__setattr__(self, "function", self.function or function)
        object.__setattr__(self, "gamma", gamma if self.gamma is None else float(self.gamma))
        if not (math.isfinite(self.steepness) and self.steepness > 0):
            raise ValueError(f"surrogate gamma must be positive, not {self.gamma}")

    @property
    def steepness(self) -> float:
        """Gamma as a number."""
        assert self.gamma is not None
        return self.gamma

    def __call__(self, z: Tensor) -> Tensor:
        """Pseudo-derivative at z = u/v (any shape).

        Raises:
            SnnRlError: the function behind the name is not known here.
        """
        if self.function is None:
            raise SnnRlError(
                f"the surrogate {self.kind!r} is not known here: to train on, pass surrogate="
                "snn_rl.Surrogate(name, gamma, function)"
            )
        return self.function(z, self.steepness)
