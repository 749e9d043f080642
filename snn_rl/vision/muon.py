"""Muon for convolutions, Adam for everything else, in one optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
SPECTRAL_FLOOR = 1e-7


class Muon(Optimizer):
    """Momentum whose update of every matrix is replaced by its nearest orthogonal one.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". A
    convolution's weights [out, in, height, width] count as the matrix [out, in * height * width].
    Groups without `orthogonal` are trained by Adam (Kingma and Ba 2015). Decay is decoupled.

    Args:
        groups: parameter groups; each may hold `orthogonal`, `lr` and `weight_decay`.
        lr: learning rate of groups that name none.
        momentum: of orthogonal groups, in Nesterov's form.
        betas: of Adam.
        eps: added to Adam's denominator.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": 0.0,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            "orthogonal": False,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update from the gradients; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            if group["orthogonal"]:
                for parameter in parameters:
                    self._orthogonal(parameter, group)
            else:
                self._adam(parameters, group)
        return loss

    def _orthogonal(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        nesterov = gradient.lerp(state["momentum"], group["momentum"])
        matrix = nesterov.flatten(1)
        # A tall matrix' update is scaled so that every output changes as much as in a wide one.
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        update = orthogonalised(matrix).to(parameter.dtype).view(parameter.shape)
        parameter.add_(update, alpha=-group["lr"] * scale)

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        states = [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            if not state:
                state["step"] = torch.zeros(())
                state["mean"] = torch.zeros_like(parameter)
                state["square"] = torch.zeros_like(parameter)
            state["step"] += 1
        first, second = group["betas"]
        count = int(states[0]["step"])
        means, squares = ([state[key] for state in states] for key in ("mean", "square"))
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - second)
        denominators = torch._foreach_div(squares, 1 - second**count)
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, group["eps"])
        rate = -group["lr"] / (1 - first**count)
        torch._foreach_addcdiv_(parameters, means, denominators, value=rate)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Nearly orthogonal matrix [rows, columns] with the singular vectors of `matrix`, bfloat16.

    Five Newton-Schulz steps bring the singular values to about 0.7 to 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix / matrix.norm().clamp_min(SPECTRAL_FLOOR)).to(torch.bfloat16)
    x = x.mT if tall else x
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result
