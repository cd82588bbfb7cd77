"""What the encoders of the three libraries share: pixels in, patches and prefix tokens apart."""

from collections.abc import Sequence
from math import isqrt
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hdvl.encoders.pixels import Normalise
from hdvl.encoders.reach import drop_unreached, reach, takes
from hdvl.encoders.sizes import Sizes
from hdvl.protocols import Grid, Size

UNUSUAL_GRID = (5, 11)
"""A grid to find out whether an encoder takes images of another size: oblong, small, its sides odd."""


class PatchEncoder(nn.Module):
    """A library's vision model behind the ``Encoder`` protocol.

    A subclass builds ``model``, then calls :meth:`_settle`, and answers :meth:`tokens`. The
    features are those of the block that ``select_layer`` names, counted from the end: -1 is the
    output of the last block, -2 of the last but one, as LLaVA takes it (arXiv 2304.08485). Later
    blocks, heads and poolers are not kept. With ``final_norm`` the model's last normalisation is
    applied to whichever block is chosen; without it the features are the bare residual stream.

    Images of other sizes than ``tile_size`` square are taken where the model can: ``sizes`` says so,
    which is found out on ``meta`` when the encoder is built. ``patch_size`` are the (rows, columns) of
    pixels of a patch, None where only the model's output tells.
    """

    width: int
    tile_size: int
    grid: Grid
    patch_size: tuple[int, int] | None
    sizes: Sizes
    model: Any
    pixels: Normalise
    select_layer: int
    final_norm: bool
    measured: tuple[int, Grid, int]
    from_maps: bool = False

    def __init__(
        self,
        *,
        model: Any,
        mean: Sequence[float],
        std: Sequence[float],
        tile_size: int,
        select_layer: int,
        final_norm: bool,
        patch_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
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

    def grid_for(self, size: Size) -> Grid:
        """The (rows, cols) of patches of an image of ``size`` = (width, height) pixels.

        Raises:
            ValueError: the encoder does not take this size.
        """
        return self.sizes.grid_for(size)

    def forward(self, pixels: Shaped[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]:
        """Patch features in raster order; CLS and register tokens are dropped.

        Raises:
            ValueError: the encoder does not take images of this size.
        """
        return self.forward_with_prefix(pixels)[0]

    def forward_with_prefix(
        self, pixels: Shaped[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Patch features, and apart from them the CLS and register tokens (none in SigLIP)."""
        if tuple(pixels.shape[2:]) != (self.tile_size, self.tile_size):
            self.sizes.grid_for((pixels.shape[3], pixels.shape[2]))
        dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return self.tokens(self.pixels(pixels, dtype))

    def tokens(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Patches and prefix of pixels as the model's first layer takes them."""
        raise NotImplementedError

    def _settle(self, name: str) -> None:
        """Learn ``width``, ``grid`` and ``sizes`` on ``meta``; drop what the features do not depend on."""
        self.sizes = Sizes(name=name, tile_size=self.tile_size, grid=(0, 0), patch=None)
        features, reached = self._measured(name)
        self.width, self.grid = features.shape[2], self._counted(features.shape[1], name)
        if self.final_norm:
            self.final_norm = False
            _, without = self._measured(name)
            self.final_norm = True
            if without == reached:
                raise ValueError(
                    f"final_norm=True needs a model that normalises its patch features, {name} "
                    "does not; set final_norm=False"
                )
        self.measured = (self.tile_size, self.grid, self.width)
        drop_unreached(self, reached)
        tile = (len(self.mean), self.tile_size, self.tile_size)
        if not takes(self, tile, (features.shape[1], self.width)):
            raise ValueError(
                f"encoder {name} must give features of each of several images, and without the parts that "
                "these do not depend on; choose another select_layer or another model"
            )
        self.sizes = self._sizes(name)

    def _step(self) -> tuple[int, int] | None:
        """(rows, columns) of pixels from one feature to the next, if that is a whole number."""
        rows, cols = self.grid
        if self.patch_size is not None or self.tile_size % rows or self.tile_size % cols:
            return self.patch_size
        return self.tile_size // rows, self.tile_size // cols

    def _measured(self, name: str) -> tuple[Float[Tensor, "t n d"], frozenset[str]]:
        """The features of a tile on ``meta``, and the parameters that they depend on."""
        try:
            features, reached = reach(self, (len(self.mean), self.tile_size, self.tile_size))
        except (
            AssertionError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            # What foreign code raises where it is not made for this.
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"encoder {name} must give features of a tile of {self.tile_size} x {self.tile_size} "
                f"pixels without seeing their values; its forward pass raised {type(error).__name__}: {why}"
            ) from error
        if features.ndim != 3:
            raise ValueError(
                f"encoder {name} must give features t n d, got a shape of {tuple(features.shape)}"
            )
        return features, reached

    def _counted(self, tokens: int, name: str) -> Grid:
        """The grid of a tile that gives this many tokens."""
        rows = cols = isqrt(tokens)
        if self.patch_size is not None:
            rows, cols = self.tile_size // self.patch_size[0], self.tile_size // self.patch_size[1]
        if rows * cols != tokens:
            raise ValueError(
                f"encoder must give one token for each patch of a tile, {name} gives {tokens} "
                f"tokens for tile_size={self.tile_size}"
                + (
                    f" and patches of {self.patch_size[0]} x {self.patch_size[1]} px"
                    if self.patch_size
                    else ""
                )
            )
        return rows, cols

    def _sizes(self, name: str) -> Sizes:
        """Which sizes the model takes, by trying an unusual one."""
        one = Sizes(name=name, tile_size=self.tile_size, grid=self.grid, patch=None)
        patch = self._step()
        if patch is None:
            return one
        self.sizes = Sizes(name=name, tile_size=self.tile_size, grid=self.grid, patch=patch)
        down, across = UNUSUAL_GRID
        image = (len(self.mean), down * patch[0], across * patch[1])
        return self.sizes if takes(self, image, (down * across, self.width)) else one


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
