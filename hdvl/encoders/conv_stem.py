"""Small convolutional encoder with one feature per 8 x 8 pixels, for reading small text on a CPU."""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hdvl.encoders.pixels import normalise
from hdvl.encoders.sizes import Sizes
from hdvl.protocols import Grid, Size

STRIDE = 8


class _Residual(nn.Module):
    """Residual block of two 3 x 3 convolutions (He et al., arXiv 1512.03385)."""

    layers: nn.Sequential

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, maps: Float[Tensor, "t d h w"]) -> Float[Tensor, "t d h w"]:
        return nn.functional.relu(maps + self.layers(maps))


class _Line(nn.Module):
    """Residual block of two 1 x 5 convolutions with dilation 2, for context along a line of text."""

    layers: nn.Sequential

    def __init__(self, width: int) -> None:
        super().__init__()
        options: dict[str, Any] = {"padding": (0, 4), "dilation": (1, 2), "bias": False}
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, (1, 5), **options),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, (1, 5), **options),
            nn.BatchNorm2d(width),
        )

    def forward(self, maps: Float[Tensor, "t d h w"]) -> Float[Tensor, "t d h w"]:
        return nn.functional.relu(maps + self.layers(maps))


class ConvStem(nn.Module):
    """Convolutional encoder with one feature per 8 x 8 pixels.

    Two strided convolutions are followed by residual blocks, a third strided convolution and more
    residual blocks. The receptive field of a feature is a square of about 100 pixels; each of the
    ``lines`` blocks adds 64 pixels on the left and on the right, so that the feature at the beginning of
    a word covers the whole word.
    """

    width: int
    tile_size: int
    grid: Grid
    sizes: Sizes
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layers: nn.Sequential

    def __init__(
        self,
        *,
        tile_size: int = 224,
        stem_width: int = 64,
        width: int = 112,
        stem_depth: int = 1,
        depth: int = 2,
        lines: int = 2,
        mean: tuple[float, ...] | list[float] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] | list[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        if tile_size < STRIDE or tile_size % STRIDE:
            raise ValueError(f"tile_size must be a multiple of {STRIDE}, got {tile_size}")
        self.width, self.tile_size = width, tile_size
        self.grid = (tile_size // STRIDE, tile_size // STRIDE)
        self.sizes = Sizes(
            name="ConvStem", tile_size=tile_size, grid=self.grid, patch=(STRIDE, STRIDE)
        )
        self.mean, self.std = tuple(mean), tuple(std)
        self.layers = nn.Sequential(
            nn.Conv2d(3, stem_width // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem_width // 2),
            nn.ReLU(),
            nn.Conv2d(stem_width // 2, stem_width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem_width),
            nn.ReLU(),
            *(_Residual(stem_width) for _ in range(stem_depth)),
            nn.Conv2d(stem_width, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *(_Residual(width) for _ in range(depth)),
            *(_Line(width) for _ in range(lines)),
        ).to(memory_format=torch.channels_last)

    def grid_for(self, size: Size) -> Grid:
        """Return (rows, cols) of the features of an image of ``size`` = (width, height) pixels.

        Raises:
            ValueError: the size is not a multiple of 8 pixels.
        """
        return self.sizes.grid_for(size)

    def forward(self, pixels: Shaped[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]:
        """Compute features (t, n, d) in raster order.

        Raises:
            ValueError: the size of the images is not a multiple of 8 pixels.
        """
        self.grid_for((pixels.shape[3], pixels.shape[2]))
        weight = next(self.parameters())
        ready = normalise(pixels, self.mean, self.std, weight.dtype)
        # Channels-last memory halves the time of these convolutions on a CPU.
        maps: Tensor = self.layers(ready.contiguous(memory_format=torch.channels_last))
        return maps.flatten(2).transpose(1, 2)
