"""Several encoders that look at the same tiles, their features side by side."""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hdvl.protocols import Encoder, Grid, Size

Resampling = Literal["nearest", "bilinear", "bicubic"]


class FusedEncoder(nn.Module):
    """Channel concatenation of the features of ``encoders`` (Tong et al., arXiv 2401.06209).

    It takes images of the sizes that all of its encoders take.

    Each encoder normalises uint8 pixels by its own ``mean`` and ``std``; the fused ones are the
    first's, and float pixels, normalised by those, are normalised anew for the others. Grids
    must be equal, or ``interpolate`` names how the others are resampled to the first's grid.

    Raises:
        ValueError: fewer than two encoders, or tile sizes or grids that differ.
    """

    width: int
    tile_size: int
    grid: Grid
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoders: nn.ModuleDict
    interpolate: Resampling | None

    def __init__(
        self,
        *,
        encoders: Mapping[str, Encoder],
        interpolate: Resampling | None = None,
    ) -> None:
        super().__init__()
        if len(encoders) < 2:
            raise ValueError(f"encoders must be two or more, got {list(encoders)}")
        sizes = {name: encoder.tile_size for name, encoder in encoders.items()}
        grids = {name: encoder.grid for name, encoder in encoders.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"encoders must have one tile_size, got {sizes}; set the tile_size of each"
            )
        if len(set(grids.values())) > 1 and interpolate is None:
            raise ValueError(
                f"encoders must have one grid, got {grids}; set interpolate=bilinear to resample "
                "to the first"
            )
        first = next(iter(encoders.values()))
        self.width = sum(encoder.width for encoder in encoders.values())
        self.tile_size, self.grid = first.tile_size, first.grid
        self.mean, self.std = tuple(first.mean), tuple(first.std)
        self.encoders = nn.ModuleDict(cast(dict[str, nn.Module], dict(encoders)))
        self.interpolate = interpolate

    def grid_for(self, size: Size) -> Grid:
        """The first encoder's grid of an image of ``size`` = (width, height) pixels.

        Raises:
            ValueError: an encoder does not take this size, or the grids differ and are not resampled.
        """
        parts = cast(list[Encoder], list(self.encoders.values()))
        grids = {name: part.grid_for(size) for name, part in zip(self.encoders, parts, strict=True)}
        if len(set(grids.values())) > 1 and self.interpolate is None:
            raise ValueError(
                f"encoders must have one grid, got {grids} for {size[0]} x {size[1]} pixels; set "
                "interpolate=bilinear to resample to the first"
            )
        return next(iter(grids.values()))

    def forward(self, pixels: Shaped[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]:
        """Features of all encoders, in the order given, on the first one's grid."""
        parts = cast(list[Encoder], list(self.encoders.values()))
        grid = self.grid_for((pixels.shape[3], pixels.shape[2]))
        return torch.cat([self._features(encoder, pixels, grid) for encoder in parts], dim=2)

    def _features(
        self, encoder: Encoder, pixels: Shaped[Tensor, "t c h w"], grid: Grid
    ) -> Float[Tensor, "t n _d"]:
        if pixels.is_floating_point() and (encoder.mean, encoder.std) != (self.mean, self.std):
            pixels = self._renormalise(encoder, pixels)
        features = encoder(pixels)
        own = encoder.grid_for((pixels.shape[3], pixels.shape[2]))
        if own == grid or self.interpolate is None:
            return features
        maps = rearrange(features, "t (r c) d -> t d r c", r=own[0])
        smooth = self.interpolate != "nearest"
        maps = nn.functional.interpolate(
            maps, grid, mode=self.interpolate, align_corners=False if smooth else None
        )
        return rearrange(maps, "t d r c -> t (r c) d")

    def _renormalise(
        self, encoder: Encoder, pixels: Float[Tensor, "t c h w"]
    ) -> Float[Tensor, "t c h w"]:
        old_mean, old_std, mean, std = (
            pixels.new_tensor(numbers)[:, None, None]
            for numbers in (self.mean, self.std, encoder.mean, encoder.std)
        )
        return (pixels * old_std + old_mean - mean) / std
