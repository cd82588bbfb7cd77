"""Unpacking and dequantisation of four-bit weights."""

import pytest
import torch

from hdvl.llms.gptq import columns, dequantised
from tests.qwen_vl_gptq import packed, quantised

KEY = "transformer.h.0.mlp.w1.weight"


@pytest.mark.parametrize(("shuffled", "zero"), [(False, 8), (True, 8), (False, None)])
def test_weights_are_those_that_were_meant(shuffled: bool, zero: int | None) -> None:
    weight = torch.randn(24, 384)
    stored, meant = quantised({KEY: weight}, shuffled=shuffled, zero=zero)
    parts = [
        stored[KEY.replace("weight", part)] for part in ("qweight", "qzeros", "scales", "g_idx")
    ]
    assert [tuple(part.shape) for part in parts] == [(48, 24), (3, 3), (3, 24), (384,)]
    ours = dequantised(*parts)
    assert torch.equal(ours, meant[KEY])
    assert 0 < (ours - weight).abs().mean() < 0.2  # a step is the largest over 7
    cut = [dequantised(*columns(tuple(parts), number, 3)) for number in range(3)]
    assert torch.equal(torch.cat(cut), ours)


def test_eight_bits() -> None:
    values, scales = torch.randint(0, 256, (8, 4)), torch.rand(1, 4)
    words = packed_bytes(values.T).T
    zeros = packed_bytes(torch.full((1, 4), 127))
    ours = dequantised(words, zeros, scales, torch.zeros(8).int())
    assert torch.equal(ours, (scales * (values - 128)).T)


def packed_bytes(values: torch.Tensor) -> torch.Tensor:
    """Four bytes of a row in an int32."""
    return values.to(torch.uint8).contiguous().view(torch.int32)


def test_lowest_bits_come_first() -> None:
    assert packed(torch.arange(8)[:, None], 0).item() == 0x76543210
    assert packed(torch.full((8, 1), 15), 0).item() == -1


def test_refusals() -> None:
    ints = torch.ones(3, 8, dtype=torch.int32)
    with pytest.raises(
        ValueError, match="must hold 2, 4, 8 bits for each of 32 inputs, got 3 rows"
    ):
        dequantised(ints, ints[:1, :1], torch.ones(1, 8), torch.zeros(32, dtype=torch.int32))
    with pytest.raises(
        ValueError, match="outputs must come in 3 equal parts of whole words, got 8"
    ):
        columns((ints, ints, torch.ones(1, 8), ints[0]), 0, 3)
