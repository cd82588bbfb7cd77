"""Muon for matrices, AdamW for everything else, in one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# Quintic Newton-Schulz iteration of Jordan et al., https://kellerjordan.github.io/posts/muon/.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose matrices are updated by Muon: Nesterov momentum, made orthogonal.

    Updates are scaled so that a matrix's entries move about as far as AdamW's would (Liu et al.,
    "Muon is scalable for LLM training", arXiv 2502.16982): one learning rate serves both.
    torch.optim.Muon computes the same but takes matrices alone; here groups may hold anything, so
    that rates, schedules and checkpoints are those of one optimizer.

    Args:
        params: parameters or groups, as AdamW takes them.
        momentum: of the matrices; AdamW's ``betas`` hold for the rest.
        iterations: of the Newton-Schulz iteration.
        table: a matrix with more than this many times as many rows as columns, or columns as rows
            (an embedding), stays with AdamW, as do vectors, convolutions and matrices with a side
            below 32.
        **options: AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        momentum: float = 0.95,
        iterations: int = 5,
        table: float = 5.0,
        **options: Any,
    ) -> None:
        if not 0 <= momentum < 1 or iterations < 1:
            raise ValueError(
                f"momentum must be in 0..1 and iterations at least 1, got {momentum} and {iterations}"
            )
        super().__init__(params, **options)
        self.momentum, self.iterations, self.table = momentum, iterations, table

    def is_matrix(self, parameter: Tensor) -> bool:
        """Whether ``parameter`` is updated by Muon."""
        low, high = min(parameter.shape, default=0), max(parameter.shape, default=0)
        return parameter.ndim == 2 and low >= 32 and high <= self.table * low

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update of everything that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in filter(self.is_matrix, group["params"]):
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group["lr"], group["weight_decay"])
                    moved.append((parameter, parameter.grad))
                    parameter.grad = None  # AdamW passes over it
        super().step()
        for parameter, gradient in moved:
            parameter.grad = gradient
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
            state["step"] = torch.tensor(0.0)  # AdamW asks every state for it when it is loaded
        state["step"] += 1
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - self.momentum)
        update = orthogonal(gradient.lerp(buffer, self.momentum), self.iterations)
        parameter.mul_(1 - rate * decay)
        parameter.add_(update, alpha=-rate * 0.2 * max(parameter.shape) ** 0.5)


def orthogonal(matrix: Float[Tensor, "r c"], iterations: int) -> Float[Tensor, "r c"]:
    """About the nearest matrix whose singular values are all 1 (between 0.7 and 1.2).

    On a GPU in bf16, as published; a CPU without bf16 arithmetic would take 30 times as long.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.mT).to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    updated: Tensor = x if wide else x.mT
    return updated.to(matrix.dtype)
