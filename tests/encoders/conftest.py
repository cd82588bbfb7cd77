"""Checks that hold for every encoder, and an encoder that needs no library."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hdvl.encoders import Normalise
from hdvl.protocols import Encoder


@pytest.fixture
def noise() -> Callable[..., Tensor]:
    """uint8 tiles of noise."""

    def make(tiles: int, size: int) -> Tensor:
        return torch.randint(0, 256, (tiles, 3, size, size), dtype=torch.uint8)

    return make


@pytest.fixture
def assert_contract(noise: Callable[..., Tensor]) -> Callable[..., None]:
    """Patches in raster order and nothing else, every parameter trained, ``mixing`` names the attention."""

    def check(encoder: Any, *, mixing: str, prefix: int) -> None:
        assert isinstance(encoder, Encoder)
        rows, cols = encoder.grid
        tile = noise(1, encoder.tile_size)
        features, extra = encoder.forward_with_prefix(tile)
        assert features.shape == (1, rows * cols, encoder.width)
        assert extra.shape == (1, prefix, encoder.width)
        (features * torch.randn_like(features)).sum().backward()
        idle = [name for name, value in encoder.named_parameters() if value.grad is None]
        assert idle == []
        # Without what attention adds, a token sees its own patch only: so its place is seen.
        outputs = [p for name, p in encoder.named_parameters() if mixing in name]
        assert len(outputs) >= 2
        with torch.no_grad():
            for parameter in outputs:
                parameter.zero_()
            changed = tile.repeat(rows * cols, 1, 1, 1)
            step = encoder.tile_size // rows
            for cell in range(rows * cols):
                y, x = step * (cell // cols), step * (cell % cols)
                changed[cell, :, y : y + step, x : x + step] ^= 255
            encoder.eval()
            before, prefix_before = encoder.forward_with_prefix(tile)
            after, prefix_after = encoder.forward_with_prefix(changed)
        on_meta = (after - before).abs().amax(dim=2) > 1e-4
        assert torch.equal(on_meta, torch.eye(rows * cols, dtype=torch.bool))
        assert torch.allclose(
            prefix_after, prefix_before.expand_as(prefix_after), rtol=1e-5, atol=1e-6
        )

    return check


class Patches(nn.Module):
    """An encoder of one convolution."""

    def __init__(
        self, *, width: int = 8, tile_size: int = 32, patch: int = 8, mean: float = 0.5, **conv: Any
    ) -> None:
        super().__init__()
        self.width, self.tile_size = width, tile_size
        self.grid = (tile_size // patch, tile_size // patch)
        self.mean, self.std = (mean, 0.4, 0.3), (0.2, 0.3, 0.25)
        self.pixels = Normalise(mean=self.mean, std=self.std)
        self.conv = nn.Conv2d(3, width, patch, stride=patch, **conv)
        self.patch, self.largest_batch = patch, 0

    def grid_for(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[1] // self.patch, size[0] // self.patch

    def forward(self, pixels: Shaped[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]:
        self.largest_batch = max(self.largest_batch, len(pixels))
        maps = self.conv(self.pixels(pixels, self.conv.weight.dtype))
        return maps.flatten(2).transpose(1, 2)


@pytest.fixture
def patches() -> Callable[..., Patches]:
    """Makes encoders of one convolution."""
    return Patches
