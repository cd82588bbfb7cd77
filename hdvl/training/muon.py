"""Optimizer that combines Muon for matrices with AdamW for all other parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose matrices are updated by ``torch.optim.Muon`` instead.

    Updates of Muon are scaled to about the size of updates of AdamW (Liu et al., "Muon is scalable for LLM
    training", arXiv 2502.16982), so that both use the same learning rate. Parameter groups may hold
    parameters of both kinds; learning rates, schedules and checkpoints are those of one optimizer.

    Muon computes in bf16, which is several times slower on a CPU without bf16 instructions.

    Args:
        params: parameters or parameter groups, as for AdamW.
        momentum: momentum of the matrices; ``betas`` of AdamW apply to all other parameters.
        iterations: number of Newton-Schulz iterations.
        table: matrices with an aspect ratio above this value (embeddings) are updated by AdamW, as are
            vectors, convolutions and matrices with a side below 32.
        **options: options of AdamW.

    Raises:
        ValueError: ``momentum`` or ``iterations`` is out of range.
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
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.grad is not None and self.is_matrix(p)]
            if matrices:
                self._move(matrices, group)
                moved += [(p, p.grad) for p in matrices if p.grad is not None]
        for matrix, _ in moved:
            matrix.grad = None  # AdamW skips parameters without gradients
        super().step()
        for matrix, gradient in moved:
            matrix.grad = gradient
        return loss

    def _move(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Apply one step of Muon, whose state is kept in the state of this optimizer."""
        muon = torch.optim.Muon(
            matrices,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=self.momentum,
            ns_steps=self.iterations,
            adjust_lr_fn="match_rms_adamw",
        )
        muon.state = self.state
        muon.step()  # type: ignore[no-untyped-call]
        for matrix in matrices:  # AdamW requires a step in every loaded state
            self.state[matrix].setdefault("step", torch.tensor(0.0)).add_(1)
