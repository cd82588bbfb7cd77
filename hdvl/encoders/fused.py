"""Channel concatenation of the features of several encoders."""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hdvl.protocols import Encoder, Grid, Size

Resampling = Literal["nearest", "bilinear", "bicubic"]


class FusedEncoder(nn.Module):
    """Encoder that concatenates the features of several encoders (Tong et al., arXiv 2401.06209).

    It supports the sizes of images that all of its encoders support. Each encoder normalises uint8 pixels
    by its own ``mean`` and ``std``. Float pixels are expected to be normalised for the first encoder, whose
    ``mean`` and ``std`` are those of the fused encoder; they are converted for the others.

    Args:
        encoders: two or more encoders with the same tile size.
        interpolate: how features of the other encoders are resampled to the grid of the first one;
            ``None`` requires equal grids.

    Raises:
        ValueError: there are fewer than two encoders, or tile sizes or grids differ.
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
        """Return the first encoder's grid for an image of ``size`` = (width, height) pixels.

        Raises:
            ValueError: an encoder does not support this size, or the grids differ without ``interpolate``.
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
        """Compute the features of all encoders on the first one's grid, concatenated in order."""
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
