"""Quantised weights in the format of AutoGPTQ (Frantar et al., 2022, "GPTQ", arXiv:2210.17323).

A linear layer of ``in`` x ``out`` is stored as::

    qweight  in*bits/32, out       int32, the values of one column packed from its low bits up
    qzeros   groups, out*bits/32   int32, the zero points minus 1, packed along a row ("v1")
    scales   groups, out           half precision
    g_idx    in                    the group of each input
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

GPTQ_TENSORS = ("qweight", "qzeros", "scales", "g_idx")
WORD = 32
BITS = (2, 4, 8)


def dequantised(
    qweight: Int[Tensor, "_words out"],
    qzeros: Int[Tensor, "groups _out_words"],
    scales: Float[Tensor, "groups out"],
    g_idx: Int[Tensor, " in_"],
) -> Float[Tensor, "out in_"]:
    """Return the weight of a linear layer in float32: ``scale * (value - zero)`` by the group of each input.

    Raises:
        ValueError: the shapes do not fit any supported number of bits.
    """
    bits = WORD * qweight.shape[0] // max(1, g_idx.shape[0])
    if bits not in BITS:
        raise ValueError(
            f"qweight must hold {', '.join(map(str, BITS))} bits for each of {g_idx.shape[0]} inputs, "
            f"got {qweight.shape[0]} rows"
        )
    values = _unpacked(qweight, bits, "word out -> (word slot) out")
    zeros = _unpacked(qzeros, bits, "group word -> group (word slot)")
    zeros = (zeros + 1) & (2**bits - 1)
    group = g_idx.long()
    weight: Tensor = scales.float()[group] * (values - zeros[group])
    return weight.T.contiguous()


def _unpacked(packed: Int[Tensor, "rows cols"], bits: int, order: str) -> Int[Tensor, "_r _c"]:
    slots = torch.arange(0, WORD, bits, device=packed.device, dtype=torch.int32)
    values = (packed[..., None] >> slots) & (2**bits - 1)
    left, right = order.split(" -> ")
    unpacked: Tensor = rearrange(values, f"{left} slot -> {right}")
    return unpacked


def columns(
    parts: tuple[Tensor, Tensor, Tensor, Tensor], number: int, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return one of ``count`` equal parts of the outputs of a stored layer, without unpacking it.

    Raises:
        ValueError: the parts do not begin at whole words.
    """
    qweight, qzeros, scales, g_idx = parts
    if qweight.shape[1] % count or qzeros.shape[1] % count or scales.shape[1] % count:
        raise ValueError(
            f"outputs must come in {count} equal parts of whole words, got {qweight.shape[1]}"
        )
    cut = (part.chunk(count, dim=1)[number] for part in (qweight, qzeros, scales))
    return (*cut, g_idx)  # type: ignore[return-value]
