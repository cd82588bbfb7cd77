"""Every bit of a weight and its place count, whatever its size and kind."""

import pytest
import torch
from torch import Tensor, nn

from hdvl.inference.weights_hash import WORDS, tensor_hash, weights_hash

SIZES = [1, 3, 7, 2 * WORDS, 2 * WORDS + 1, 5 * WORDS * WORDS]


def changes(tensor: Tensor) -> list[Tensor]:
    """Tensors that differ by a bit, by signs, by the order of values and of rows of words."""
    bit = tensor.clone()
    bit.view(torch.uint8)[-1] ^= 1
    found = [bit, tensor.flip(0)] if len(tensor) > 1 else [bit]
    if len(tensor) > 4 * WORDS:
        found.append(tensor.roll(8 * WORDS // tensor.element_size()))
    if not tensor.is_floating_point():
        return found
    signs = torch.ones_like(tensor)
    signs[1:4:2] = -1
    return [*found, -tensor, *([tensor * signs] if len(tensor) > 1 else [])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("size", SIZES)
def test_every_change_counts(size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(size).mul(100).to(dtype)
    if size > 1:
        tensor[0] += 1  # so that it is not its own mirror image
    first = int(tensor_hash(tensor))
    assert int(tensor_hash(tensor.clone())) == first
    found = [int(tensor_hash(changed)) for changed in changes(tensor)]
    assert first not in found and len(set(found)) == len(found)


def test_layouts_and_offsets_do_not_count() -> None:
    values = torch.randn(6, 10)
    hashed = tensor_hash(values)
    assert tensor_hash(values.T.contiguous().T) == hashed
    shifted = torch.cat([torch.zeros(1), values.reshape(-1)])[1:]
    assert shifted.storage_offset() == 1 and tensor_hash(shifted) == hashed
    assert tensor_hash(torch.zeros(0)) == 0


def test_all_weights_of_a_module_count() -> None:
    layer = nn.BatchNorm1d(4)
    before = weights_hash(layer)
    assert len(before) == 5 and weights_hash(layer) == before
    layer.num_batches_tracked += 1
    assert weights_hash(layer) != before
    with torch.inference_mode():
        assert weights_hash(layer.requires_grad_(False))[:4] == before[:4]
    assert weights_hash(nn.Identity()) == ()
