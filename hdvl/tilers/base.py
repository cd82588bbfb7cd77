"""Base class of the tilers: options for reading and resizing images, and the cutting itself."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import ceil, lcm
from typing import TYPE_CHECKING, Any, Literal, get_args

from hdvl.geometry import Rect, Size, TilePlan
from hdvl.images import MAX_PIXELS, Colour

if TYPE_CHECKING:
    from torch import Tensor

    from hdvl.protocols import Tiler, Tiles

    FromModel = int
else:  # a plan needs no torch: only cutting imports it
    Tensor = Tiler = Tiles = Any
    # None may be given for a number that a model sets (Cutter.sized); the attribute is a number always.
    FromModel = int | None

Resample = Literal["bicubic", "bilinear", "lanczos"]
Backend = Literal["pillow", "exact", "fast"]
FROM_MODEL = ("tile_size", "stride", "multiple_of")
"""Numbers that may be given as ``None``."""

MEAN = "mean"
"""Padding with the mean colour of the encoder, which the model fills in (:func:`with_encoder`)."""


class Default(int):
    """A number that was not given and that a model may replace, see :meth:`Cutter.sized`."""


@dataclass(frozen=True, kw_only=True)
class Cutter(ABC):
    """Base of the tilers. A subclass defines ``plan``; reading, resizing and cutting are done here.

    Attributes:
        tile_size: side of a tile in pixels. ``None`` takes the encoder's when the tiler becomes part of a
            model (:meth:`sized`), and the default of the class until then.
        exif: whether to rotate images by their EXIF orientation (the published systems do not).
        background: colour under transparent pixels; ``None`` drops the alpha channel, as most published
            systems do.
        srgb: whether to convert an embedded colour profile (ICC) to sRGB (the published systems do not).
        padding: colour of the padding: three numbers, or ``mean`` for the mean colour of the encoder
            (as in LLaVA-1.5).
        resample: the resampling filter: ``bicubic``, ``bilinear`` or ``lanczos``, with antialiasing.
        backend: how pixels are resized. ``pillow``: by Pillow, bit for bit as in most published systems
            and the same for all versions of Pillow. ``exact``: the same filters in torch, several times
            faster, within 2/255 of Pillow. ``fast``: like ``exact``, but JPEG files of at least twice
            the size of the canvas are decoded at 1/2, 1/4 or 1/8 of their size, and the thumbnail is
            resized from the canvas if that is smaller (PSNR to ``exact`` about 46 dB on photos, 38 dB on
            pages of text).
        max_pixels: images of more pixels raise before they are decoded, and so do images that would have
            more pixels after only their width was resized. At the default, the limit of Pillow, an image
            takes at most 1.4 GB of memory (:data:`hdvl.images.BYTES_PER_PIXEL`).
        skip_blank: whether to leave out blank windows. The plan then depends on the pixels, and
            :meth:`plan` returns the upper bound: all windows.
        blank_tolerance: a window is blank if its pixels differ by at most this value in every channel.

    Raises:
        ValueError: a value is out of range, or a name is unknown.
    """

    tile_size: FromModel
    exif: bool = True
    background: Colour | None = (255, 255, 255)
    padding: Colour | Literal["mean"] = (0, 0, 0)
    resample: Resample = "bicubic"
    backend: Backend = "pillow"
    max_pixels: int = MAX_PIXELS
    skip_blank: bool = False
    blank_tolerance: int = 0
    srgb: bool = False

    def __post_init__(self) -> None:
        for name in FROM_MODEL:
            if isinstance(getattr(self, name, None), Default):
                object.__setattr__(self, name, None)  # computed again for the other values
        if self.tile_size is None:
            self._set_default("tile_size", self._default_tile())
        if self.tile_size < 1:
            raise ValueError(f"tile_size must be at least 1, got {self.tile_size}")
        if self.resample in get_args(Backend):
            raise ValueError(
                f"resample names the filter now, one of {get_args(Resample)}, got {self.resample!r}; "
                f"set backend={self.resample} in its place"
            )
        check_choice("resample", self.resample, get_args(Resample))
        check_choice("backend", self.backend, get_args(Backend))
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            raise ValueError(
                f"max_pixels must be in 1..{MAX_PIXELS}, where Pillow stops, got {self.max_pixels}"
            )
        self._set_colour("background", (None,))
        self._set_colour("padding", (MEAN,))

    def _set_default(self, name: str, value: int) -> None:
        object.__setattr__(self, name, Default(value))

    def _default_tile(self) -> int:
        """Return the default of the class, or the next larger size that goes with the other sizes given."""
        default = next(entry.default for entry in fields(self) if entry.name == "tile_size")
        steps = [getattr(self, name, None) or 1 for name in ("multiple_of", "thumbnail_multiple")]
        step = lcm(*(max(1, number) for number in steps))
        return ceil(max(int(str(default)), getattr(self, "stride", None) or 0) / step) * step

    @property
    def follows_encoder(self) -> bool:
        """Whether the tile size was not given, so that :meth:`sized` takes the encoder's."""
        return isinstance(self.tile_size, Default)

    def sized(self, tile_size: int, patch: int | None, factor: int) -> "Cutter":
        """Return the tiler with the sizes that it takes from a model because it was not given its own.

        Args:
            tile_size: that of the encoder.
            patch: side of the encoder's patches in pixels; ``None`` if a tile is no whole number of them.
            factor: the bridge merges ``factor`` x ``factor`` patches into one token.
        """
        given = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        changes: dict[str, Any] = {}
        if self.follows_encoder:
            changes["tile_size"] = tile_size
        if isinstance(given.get("multiple_of"), Default) and patch is not None:
            changes["multiple_of"] = self.step(
                changes.get("tile_size", self.tile_size), patch, factor
            )
        return type(self)(**{**given, **changes}) if changes else self

    def step(self, tile_size: int, patch: int, factor: int) -> int | None:
        """Return ``multiple_of`` for a model, see :meth:`sized`; ``None`` for the default of the class."""
        return patch * factor

    def _set_colour(self, name: str, others: tuple[str | None, ...]) -> None:
        value = getattr(self, name)
        if value in others:
            return
        if (
            isinstance(value, str)
            or len(value) != 3
            or not all(0 <= level <= 255 for level in value)
        ):
            other = " or ".join("null" if other is None else other for other in others)
            raise ValueError(f"{name} must be three numbers in 0..255, or {other}, got {value}")
        # Lists of YAML and JSON become tuples, so that the tiler is hashable.
        object.__setattr__(self, name, tuple(value))

    @property
    @abstractmethod
    def max_tiles(self) -> int:
        """The largest number of windows of an image, not counting the thumbnail."""

    @abstractmethod
    def plan(self, width: int, height: int) -> TilePlan:
        """Return how an image of ``width`` x ``height`` pixels is cut."""

    def __call__(self, image: Any, *, out: Tensor | None = None) -> Tiles:
        """Read an image and cut it into views.

        Args:
            image: anything that :func:`hdvl.images.read_image` supports.
            out: contiguous uint8 tensor with room for ``max_tiles + 1`` tiles. If given, the pixels are
                written into it, and those returned are views of it.

        Returns:
            The pixels, uint8 (t, c, h, w) in channels-last memory, and the plan.

        Raises:
            ValueError: the image cannot be read or is too large, or ``padding`` is ``mean`` and the tiler
                does not belong to a model.
        """
        from hdvl.tilers import pixels

        if isinstance(self.padding, str):
            raise ValueError(
                "padding=mean is the encoder's mean colour, and this tiler has no encoder; use the "
                "tiler of the model, or set padding=[r,g,b]"
            )
        reading = pixels.Reading(
            exif=self.exif,
            background=self.background,
            max_pixels=self.max_pixels,
            srgb=self.srgb,
            resample=self.resample,
            padding=self.padding,
            out=out,
        )
        tiles: Tiles = pixels.METHODS[self.backend](image, plan=self.checked_plan, reading=reading)
        if not self.skip_blank:
            return tiles
        from hdvl.tilers.blank import without_blank

        return without_blank(tiles, self.blank_tolerance)

    def checked_plan(self, width: int, height: int) -> TilePlan:
        """Return the plan, after checking that resizing stays within ``max_pixels``.

        The width is resized before the height, so a very narrow image may be larger in between: cut into
        ten tiles, an image of 10 x 10,000,000 pixels would first be resized to 4,480 x 10,000,000.

        Raises:
            ValueError: the image is too narrow.
        """
        plan = self.plan(width, height)
        x0, y0, x1, y1 = plan.source_frame
        new_width = max(x1 - x0, plan.content[2] - plan.content[0], *(w for w, _ in plan.steps))
        if new_width * (y1 - y0) > self.max_pixels:
            raise ValueError(
                f"an image of {width}x{height} pixels is too narrow: resized to a width of "
                f"{new_width} it has more than max_pixels={self.max_pixels}; cut it into pieces"
            )
        return plan


def with_encoder(tiler: Tiler, mean: Sequence[float]) -> Tiler:
    """Return ``tiler`` with colours that are ``mean`` replaced by the mean colour of the encoder.

    Args:
        tiler: the tiler.
        mean: the mean of each channel that the encoder subtracts, 0..1.
    """
    if not isinstance(tiler, Cutter):
        return tiler
    red, green, blue = (int(level * 255) for level in mean)
    names = [entry.name for entry in fields(tiler) if getattr(tiler, entry.name) == MEAN]
    colours: dict[str, Any] = dict.fromkeys(names, (red, green, blue))
    return replace(tiler, **colours) if names else tiler


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise a ``ValueError`` if ``value`` is not one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {value!r}")


def check_thumbnail(thumbnail: str | None) -> None:
    """Raise a ``ValueError`` if ``thumbnail`` is none of ``first``, ``last`` and ``None``."""
    if thumbnail not in ("first", "last", None):
        raise ValueError(f"thumbnail must be 'first', 'last' or null, got {thumbnail!r}")


def check_image(width: int, height: int) -> None:
    """Raise a ``ValueError`` for an image without pixels."""
    if width < 1 or height < 1:
        raise ValueError(f"an image must have at least 1x1 pixels, got {width}x{height}")


def centred(size: Size, canvas: Size) -> Rect:
    """Return the rectangle of ``size`` in the centre of ``canvas``, which may be smaller than ``size``."""
    left = (canvas[0] - size[0]) // 2 if size[0] <= canvas[0] else -((size[0] - canvas[0]) // 2)
    top = (canvas[1] - size[1]) // 2 if size[1] <= canvas[1] else -((size[1] - canvas[1]) // 2)
    return left, top, left + size[0], top + size[1]
