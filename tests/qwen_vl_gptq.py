"""Qwen-VL checkpoints of four bits, made by rounding known weights, apart from hdvl's own parts."""

from typing import Any

import torch
from torch import Tensor

from tests.qwen_vl_reference import State, manifest

GROUP = 128
QUANTISED = ("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj")
TOLD = {
    "bits": 4,
    "group_size": GROUP,
    "damp_percent": 0.01,
    "desc_act": False,
    "static_groups": False,
    "sym": True,
    "true_sequential": True,
    "model_name_or_path": None,
    "model_file_base_name": "model",
    "quant_method": "gptq",
}
"""``quantization_config`` as published."""


def is_quantised(key: str) -> bool:
    """Whether ``key`` is the weight of a layer that the published checkpoint holds in four bits."""
    inside = key.startswith("transformer.h.")
    return inside and key.endswith(tuple(f".{name}.weight" for name in QUANTISED))


def int4_manifest(
    config: dict[str, Any],
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Every key of the quantised checkpoint with its shape and dtype."""
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for key, shape in manifest(config).items():
        if not is_quantised(key):
            found[key] = (shape, torch.float16)
            continue
        module, (out, inputs) = key.removesuffix(".weight"), shape
        found |= {
            f"{module}.qweight": ((inputs // 8, out), torch.int32),
            f"{module}.qzeros": ((inputs // GROUP, out // 8), torch.int32),
            f"{module}.scales": ((inputs // GROUP, out), torch.float16),
            f"{module}.g_idx": ((inputs,), torch.int32),
            f"{module}.bias": ((out,), torch.float16),
        }
    return found


def packed(values: Tensor, axis: int) -> Tensor:
    """Numbers of 0 to 15, eight in an int32 along ``axis``, the first in the lowest bits."""
    words = torch.zeros_like(values.narrow(axis, 0, values.shape[axis] // 8), dtype=torch.int64)
    for slot in range(8):
        chosen = torch.arange(slot, values.shape[axis], 8)
        words += values.long().index_select(axis, chosen) << (4 * slot)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def quantised(state: State, *, shuffled: bool = False, zero: int | None = 8) -> tuple[State, State]:
    """(the stored checkpoint, the weights that it stands for) of 16-bit weights.

    Groups are runs of inputs, or with ``shuffled`` (act order) any; ``zero`` None draws zero points.
    """
    stored, meant = dict[str, Tensor](), dict(state)
    for key, weight in state.items():
        if not is_quantised(key):
            stored[key] = meant[key] = weight.half()
            meant[key] = meant[key].float()
            continue
        module, (out, inputs) = key.removesuffix(".weight"), weight.shape
        group = torch.arange(inputs) // GROUP
        group = group[torch.randperm(inputs)] if shuffled else group
        count = int(group.max()) + 1
        largest = torch.stack([weight[:, group == i].abs().amax(1) for i in range(count)])
        scales = (largest / 7).half()  # groups out
        zeros = torch.full((count, out), zero or 0)
        if zero is None:
            zeros = torch.randint(5, 11, (count, out))
        values = (weight.T / scales.float()[group] + zeros[group]).round().clamp(0, 15)
        meant[key] = (scales.float()[group] * (values - zeros[group])).T
        stored |= {
            f"{module}.qweight": packed(values, 0),
            f"{module}.qzeros": packed(zeros - 1, 1),
            f"{module}.scales": scales,
            f"{module}.g_idx": group.int(),
        }
        if f"{module}.bias" not in state:
            stored[f"{module}.bias"] = torch.zeros(out, dtype=torch.float16)
    return stored, meant
