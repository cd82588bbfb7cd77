"""LoRA and DoRA for ``torch.nn.MultiheadAttention``, which uses its matrices without calling a layer.

peft adds the adapter to the weight before each forward pass and subtracts it afterwards, so that frozen
weights drift by rounding errors. Here the matrix is parametrised instead, and the frozen matrix is never
written to.
"""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

MATRICES = ("in_proj_weight", "out_proj.weight")


class LowRank(nn.Module):
    """Parametrisation ``weight + B A alpha / rank``, which starts as the identity because ``B`` is zero.

    With ``dora`` the norm of each row of the sum is a separate parameter. The norm that the sum is
    divided by is treated as a constant in the backward pass (arXiv 2402.09353, section 4.3).
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_magnitude: nn.Parameter | None
    scale: float

    def __init__(
        self, *, weight: Float[Tensor, "o i"], rank: int, alpha: int | float, dora: bool = False
    ) -> None:
        super().__init__()
        rows, cols = weight.shape
        self.lora_A = nn.Parameter(weight.new_empty(rank, cols))
        self.lora_B = nn.Parameter(weight.new_zeros(rows, rank))
        lengths = weight.detach().norm(dim=1)
        self.lora_magnitude = nn.Parameter(lengths) if dora else None
        self.scale = alpha / rank
        if not weight.is_meta:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, weight: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
        adapted = weight + self.lora_B @ self.lora_A * self.scale
        if self.lora_magnitude is None:
            return adapted
        scales: Tensor = self.lora_magnitude / adapted.detach().norm(dim=1)
        return scales[:, None] * adapted


def attentions(module: nn.Module) -> list[tuple[str, nn.MultiheadAttention]]:
    """The attention layers of ``module`` with one matrix for queries, keys and values."""
    return [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, nn.MultiheadAttention) and child._qkv_same_embed_dim
    ]


def adapt(
    attention: nn.MultiheadAttention, rank: int, alpha: int | float, *, dora: bool = False
) -> None:
    """Adapt both matrices of ``attention``, in place."""
    for path in MATRICES:
        owner, name = _place(attention, path)
        matrix = LowRank(weight=getattr(owner, name), rank=rank, alpha=alpha, dora=dora)
        parametrize.register_parametrization(owner, name, matrix)


def merge(module: nn.Module) -> None:
    """Write every adapted matrix of ``module`` as a plain parameter, in place."""
    for _, attention in attentions(module):
        for path in MATRICES:
            owner, name = _place(attention, path)
            if parametrize.is_parametrized(owner, name):
                parametrize.remove_parametrizations(owner, name, leave_parametrized=True)


def _place(attention: nn.MultiheadAttention, path: str) -> tuple[nn.Module, str]:
    owner, _, name = path.rpartition(".")
    return attention.get_submodule(owner), name
