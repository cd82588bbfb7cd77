"""Base class of the encoders that wrap a vision model of another library."""

from collections.abc import Mapping, Sequence
from json import dumps
from math import isqrt
from typing import Any, NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hdvl.encoders.pixels import Normalise
from hdvl.encoders.sizes import Sizes
from hdvl.encoders.used_parameters import features_and_parameters, remove_unused, supports
from hdvl.protocols import Grid, Size

UNUSUAL_GRID = (5, 11)
"""Grid of the image that is used to check whether an encoder supports other sizes than that of a tile."""


class _Found(NamedTuple):
    """What runs on ``meta`` say about a model."""

    width: int
    grid: Grid
    used: frozenset[str]
    sizes: Sizes


_FOUND: dict[tuple[Any, ...], _Found] = {}
"""Results by the configuration of the model: the runs take half of the time of opening a small model."""


class PatchEncoder(nn.Module):
    """Base of the encoders that wrap a vision model of another library.

    A subclass builds ``model``, calls :meth:`_infer_sizes` and defines :meth:`tokens`. Blocks after the
    selected one, heads and poolers are removed. Whether the model supports images of other sizes than a
    tile is determined on the ``meta`` device when the encoder is built, and kept as ``sizes``.

    Attributes:
        tile_size: side of a tile in pixels.
        select_layer: the block whose output is used, counted from the end: -1 is the last block, -2 the
            one before, as in LLaVA (arXiv 2304.08485).
        final_norm: whether the final normalisation of the model is applied to the output of that block.
        width: width of the features.
        grid: (rows, cols) of the features of a tile.
        patch_size: (rows, columns) of pixels of a patch; ``None`` if it follows only from the output.
        sizes: the sizes of images that the model supports.
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
        """Mean of each channel, which is subtracted from uint8 pixels / 255."""
        return self.pixels.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, by which uint8 pixels / 255 - mean are divided."""
        return self.pixels.std

    def grid_for(self, size: Size) -> Grid:
        """Return (rows, cols) of the features of an image of ``size`` = (width, height) pixels.

        Raises:
            ValueError: the encoder does not support this size.
        """
        return self.sizes.grid_for(size)

    def forward(self, pixels: Shaped[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]:
        """Compute patch features in raster order, without CLS and register tokens.

        Args:
            pixels: uint8 or normalised float pixels (t, c, h, w).

        Returns:
            Features (t, n, d).

        Raises:
            ValueError: the encoder does not support images of this size.
        """
        return self.forward_with_prefix(pixels)[0]

    def forward_with_prefix(
        self, pixels: Shaped[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Compute patch features, and separately the CLS and register tokens (SigLIP has none)."""
        if tuple(pixels.shape[2:]) != (self.tile_size, self.tile_size):
            self.sizes.grid_for((pixels.shape[3], pixels.shape[2]))
        dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return self.tokens(self.pixels(pixels, dtype))

    def tokens(
        self, pixels: Float[Tensor, "t c h w"]
    ) -> tuple[Float[Tensor, "t n d"], Float[Tensor, "t _p d"]]:
        """Return patch features and prefix tokens for normalised pixels."""
        raise NotImplementedError

    def _infer_sizes(self, name: str, config: Mapping[str, Any]) -> None:
        """Set ``width``, ``grid`` and ``sizes`` by running the model on ``meta``, and remove unused modules.

        A second model of the same class, name, ``config`` and options takes the results of the first.

        Raises:
            ValueError: the model gives no patch features, or has no final normalisation to apply.
        """
        try:
            options = self.tile_size, self.select_layer, self.final_norm, len(self.mean)
            dtype = next(self.model.parameters()).dtype
            key = type(self), name, dumps(config, sort_keys=True), dtype, *options
        except TypeError:  # Python objects in the configuration have no text that tells them apart
            self._run_on_meta(name)
        else:
            if key in _FOUND:
                self.width, self.grid, used, self.sizes = _FOUND[key]
                remove_unused(self, used)
            else:
                _FOUND[key] = self._run_on_meta(name)
        self.measured = (self.tile_size, self.grid, self.width)

    def _run_on_meta(self, name: str) -> _Found:
        """Set ``width``, ``grid`` and ``sizes``, remove unused modules, and return what was found."""
        self.sizes = Sizes(name=name, tile_size=self.tile_size, grid=(0, 0), patch=None)
        features, used = self._measure(name)
        self.width, self.grid = features.shape[2], self._tile_grid(features.shape[1], name)
        if self.final_norm:
            self.final_norm = False
            _, without = self._measure(name)
            self.final_norm = True
            if without == used:
                raise ValueError(
                    f"final_norm=True needs a model that normalises its patch features, {name} "
                    "does not; set final_norm=False"
                )
        remove_unused(self, used)
        tile = (len(self.mean), self.tile_size, self.tile_size)
        if not supports(self, tile, (features.shape[1], self.width)):
            raise ValueError(
                f"encoder {name} must give features of each of several images, and without the parts that "
                "these do not depend on; choose another select_layer or another model"
            )
        self.sizes = self._supported_sizes(name)
        return _Found(self.width, self.grid, used, self.sizes)

    def _feature_step(self) -> tuple[int, int] | None:
        """Return (rows, columns) of pixels between neighbouring features, if they are integers."""
        rows, cols = self.grid
        if self.patch_size is not None or self.tile_size % rows or self.tile_size % cols:
            return self.patch_size
        return self.tile_size // rows, self.tile_size // cols

    def _measure(self, name: str) -> tuple[Float[Tensor, "t n d"], frozenset[str]]:
        """Return the features of a tile on ``meta``, and the names of the parameters that they depend on."""
        try:
            features, used = features_and_parameters(
                self, (len(self.mean), self.tile_size, self.tile_size)
            )
        except (
            AssertionError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            # Models of other libraries raise any of these if they do not support a forward pass on meta.
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"encoder {name} must give features of a tile of {self.tile_size} x {self.tile_size} "
                f"pixels without seeing their values; its forward pass raised {type(error).__name__}: {why}"
            ) from error
        if features.ndim != 3:
            raise ValueError(
                f"encoder {name} must give features t n d, got a shape of {tuple(features.shape)}"
            )
        return features, used

    def _tile_grid(self, tokens: int, name: str) -> Grid:
        """Return the grid of a tile for which the model returned this many tokens."""
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

    def _supported_sizes(self, name: str) -> Sizes:
        """Determine which sizes of images the model supports, by trying an unusual one."""
        one = Sizes(name=name, tile_size=self.tile_size, grid=self.grid, patch=None)
        patch = self._feature_step()
        if patch is None:
            return one
        self.sizes = Sizes(name=name, tile_size=self.tile_size, grid=self.grid, patch=patch)
        down, across = UNUSUAL_GRID
        image = (len(self.mean), down * patch[0], across * patch[1])
        return self.sizes if supports(self, image, (down * across, self.width)) else one


def check_tile(tile_size: int, patch: int, native: int) -> int:
    """Return ``tile_size`` if it is a multiple of the patch size or the published size of the model.

    Raises:
        ValueError: it is neither.
    """
    if tile_size != native and (tile_size < patch or tile_size % patch):
        raise ValueError(
            f"tile_size must be a multiple of the patch size {patch}, got {tile_size}; "
            f"the model's own is {native}"
        )
    return tile_size


def check_layer(select_layer: int, depth: int) -> int:
    """Return the index, from 0, of block ``select_layer`` of ``depth`` blocks.

    Raises:
        ValueError: there is no such block.
    """
    if not -depth <= select_layer <= -1:
        raise ValueError(
            f"select_layer must be in -{depth}..-1 (-1 is the last block), got {select_layer}"
        )
    return depth + select_layer
