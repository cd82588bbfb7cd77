"""What the encoders of the three libraries share: pixels in, patches and prefix tokens apart."""

from collections.abc import Sequence
from math import isqrt
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hdvl.encoders.pixels import Normalise
from hdvl.encoders.reach import drop_unreached, reach
from hdvl.protocols import Grid


class PatchEncoder(nn.Module):
    """A library's vision model behind the ``Encoder`` protocol.

    A subclass builds ``model``, then calls :meth:`_settle`, and answers :meth:`tokens`. The
    features are those of the block that ``select_layer`` names, counted from the end: -1 is the
    output of the last block, -2 of the last but one, as LLaVA takes it (arXiv 2304.08485). Later
    blocks, heads and poolers are not kept. With ``final_norm`` the model's last normalisation is
    applied to whichever block is chosen; without it the features are the bare residual stream.
    """

    width: int
    tile_size: int
    grid: Grid
    model: Any
    pixels: Normalise
    select_layer: int
    final_norm: bool
    measured: tuple[int, Grid, int]

    def __init__(
        self,
        *,
        model: Any,
        mean: Sequence[float],
        std: Sequence[float],
        tile_size: int,
        select_layer: int,
        final_norm: bool,
    ) -> None:
        super().__init__()
        self.model, self.tile_size = model, tile_size
        self.pixels = Normalise(mean=mean, std=std)
        self.select_layer, self.final_norm = select_layer, final_norm

    @property
    def mean(self) -> tuple[float, ...]:
        """What uint8 pixels / 255 are centred by, channel by channel."""
        return self.pixels.mean

    @property
    def std(self) -> tuple[float, ...]:
        """What uint8 pixels / 255 - mean are divided by, channel by channel."""
        return self.pixels.std

    def forward(self, pixels: Shaped[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]:
        """Patch features in raster order; CLS and register tokens are dropped.

        Raises:
            ValueError: the tiles are not ``tile_size`` square.
        """
        return self.forward_with_prefix(pixels)[0]

    def forward_with_prefix(
        self, pixels: Shaped[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Patch features, and apart from them the CLS and register tokens (none in SigLIP)."""
        if tuple(pixels.shape[2:]) != (self.tile_size, self.tile_size):
            raise ValueError(
                f"tiles must be tile_size={self.tile_size} pixels square, got "
                f"{pixels.shape[2]} x {pixels.shape[3]}; give tiler and encoder the same tile_size"
            )
        dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return self.tokens(self.pixels(pixels, dtype))

    def tokens(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Patches and prefix of pixels as the model's first layer takes them."""
        raise NotImplementedError

    def _settle(self, name: str) -> None:
        """Learn ``width`` and ``grid`` on ``meta``, and drop what the features do not depend on."""
        tile = (len(self.mean), self.tile_size, self.tile_size)
        features, reached = reach(self, tile)
        side = isqrt(features.shape[1])
        if side * side != features.shape[1]:
            raise ValueError(
                f"encoder must give a square grid of patches, {name} gives {features.shape[1]} "
                f"tokens for tile_size={self.tile_size}"
            )
        if self.final_norm:
            self.final_norm = False
            _, without = reach(self, tile)
            self.final_norm = True
            if without == reached:
                raise ValueError(
                    f"final_norm=True needs a model that normalises its patch features, {name} "
                    "does not; set final_norm=False"
                )
        self.width, self.grid = features.shape[2], (side, side)
        self.measured = (self.tile_size, self.grid, self.width)
        drop_unreached(self, reached)


def check_tile(tile_size: int, patch: int, native: int) -> int:
    """``tile_size``, if whole patches fill it or the model was published with it."""
    if tile_size != native and (tile_size < patch or tile_size % patch):
        raise ValueError(
            f"tile_size must be a multiple of the patch size {patch}, got {tile_size}; "
            f"the model's own is {native}"
        )
    return tile_size


def check_layer(select_layer: int, depth: int) -> int:
    """The position, counted from 0, of block ``select_layer`` of ``depth``."""
    if not -depth <= select_layer <= -1:
        raise ValueError(
            f"select_layer must be in -{depth}..-1 (-1 is the last block), got {select_layer}"
        )
    return depth + select_layer
