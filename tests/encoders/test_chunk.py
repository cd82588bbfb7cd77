import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hdvl.encoders import encode_in_chunks


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that were made inside and are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self.seen = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.count(value.untyped_storage())
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self.seen or not size:
            return
        self.seen.add(place)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.forget, place, size)

    def forget(self, place: int, size: int) -> None:
        self.seen.discard(place)
        self.live -= size


class Wide(nn.Module):
    """Activations a hundred times wider than the features."""

    def __init__(self, patches: Any) -> None:
        super().__init__()
        self.patches = patches
        self.width, self.tile_size, self.grid = patches.width, patches.tile_size, patches.grid
        self.mean, self.std, self.grid_for = patches.mean, patches.std, patches.grid_for
        self.up, self.down = nn.Linear(8, 800), nn.Linear(800, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.down(self.up(self.patches(pixels)).relu())


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 100, None])
@pytest.mark.parametrize("grad", [True, False])
def test_same_numbers(
    chunk: int | None, grad: bool, patches: Callable[..., Any], noise: Callable[..., Tensor]
) -> None:
    encoder, tiles = patches(), noise(7, 32)
    whole = encoder(tiles)
    encoder.largest_batch = 0
    with torch.set_grad_enabled(grad):
        features = encode_in_chunks(encoder, tiles, chunk)
    assert torch.allclose(features, whole, rtol=1e-6, atol=1e-6)
    assert features.requires_grad == grad
    assert encoder.largest_batch == min(chunk or 7, 7)


@pytest.mark.parametrize(
    ("inference", "dtype", "largest"),
    [(True, torch.float32, 2), (True, torch.bfloat16, 7), (False, torch.float32, 7)],
)
def test_inference_in_float32_takes_what_the_caches_hold(
    inference: bool,
    dtype: torch.dtype,
    largest: int,
    patches: Callable[..., Any],
    noise: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hdvl.encoders.chunk.PATCHES_PER_CORE", 2 * 16)
    encoder, tiles = patches().to(dtype), noise(7, 32).to(dtype)
    with torch.inference_mode(inference):
        features = encode_in_chunks(encoder, tiles)
    assert features.shape == (7, 16, 8) and encoder.largest_batch == largest


def test_gradients_are_those_of_one_batch(
    patches: Callable[..., Any], noise: Callable[..., Tensor]
) -> None:
    encoder, tiles = patches(), noise(7, 32)
    encoder(tiles).square().sum().backward()
    whole = encoder.conv.weight.grad.clone()
    encoder.zero_grad()
    encode_in_chunks(encoder, tiles, 3).square().sum().backward()
    assert torch.allclose(encoder.conv.weight.grad, whole, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_peak_memory_is_that_of_a_chunk(
    patches: Callable[..., Any], noise: Callable[..., Tensor]
) -> None:
    encoder, tiles = Wide(patches()), noise(64, 32)
    peaks = {}
    for chunk in (4, 8, 64):
        with LiveBytes() as memory:
            features = encode_in_chunks(encoder, tiles, chunk)
        peaks[chunk] = memory.peak - features.nbytes
    assert peaks[8] < peaks[64] / 6
    assert peaks[4] < peaks[8] * 0.7


def test_no_tiles(patches: Callable[..., Any], noise: Callable[..., Tensor]) -> None:
    assert encode_in_chunks(patches(), noise(0, 32), 4).shape == (0, 16, 8)


def test_wrong_chunk(patches: Callable[..., Any], noise: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="encode_chunk must be at least 1 or null, got 0"):
        encode_in_chunks(patches(), noise(1, 32), 0)
