"""What all tilers share: the options that say how pixels are read and resized, and the call."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from hdvl.geometry import Rect, Size, TilePlan
from hdvl.images import MAX_PIXELS, Colour

if TYPE_CHECKING:
    from torch import Tensor

    from hdvl.protocols import Tiler, Tiles
else:  # a plan needs no torch: only cutting imports it
    Tensor = Tiler = Tiles = Any

Resample = Literal["bicubic", "bilinear", "lanczos"]
Backend = Literal["pillow", "exact", "fast"]
MEAN = "mean"
"""The padding colour that is the encoder's mean, known once there is an encoder."""


@dataclass(frozen=True, kw_only=True)
class Cutter(ABC):
    """Base of the tilers: ``plan`` is theirs, reading, resizing and cutting are the same for all.

    Attributes:
        tile_size: side of a tile in pixels.
        exif: turn the image by its EXIF orientation (the published systems do not).
        background: colour under transparent pixels; ``None`` drops alpha (as most published systems do).
        padding: colour of what the image leaves of the canvas: three numbers, or ``mean`` for the mean
            colour that the encoder subtracts (as in LLaVA-1.5).
        resample: the filter of resizing: ``bicubic``, ``bilinear`` or ``lanczos``, always antialiased.
        backend: how pixels are resized. ``pillow``: Pillow's filters, bit for bit as most published
            systems, whatever the version of Pillow. ``exact``: the same filters by torch, several times
            as fast, within 2/255 of Pillow's. ``fast``: as ``exact``, but a JPEG of at least twice the
            canvas is decoded at 1/2, 1/4 or 1/8 of its size, and the thumbnail is made from the canvas
            if that is smaller (about 46 dB to ``exact`` on photos, 38 dB on pages of text).
        max_pixels: images of more pixels are refused before they are decoded, and so are those so
            narrow that they would have more on the way to their new width. At the default, Pillow's own
            limit, an image takes at most 1.4 GB of memory (:data:`hdvl.images.BYTES_PER_PIXEL`).
        skip_blank: leave out windows that show nothing. The plan then depends on the pixels, and
            :meth:`plan` says what an image takes at most.
        blank_tolerance: windows whose pixels differ by at most this in every channel show nothing.

    Raises:
        ValueError: a value out of range, or an unknown name.
    """

    tile_size: int
    exif: bool = True
    background: Colour | None = (255, 255, 255)
    padding: Colour | Literal["mean"] = (0, 0, 0)
    resample: Resample = "bicubic"
    backend: Backend = "pillow"
    max_pixels: int = MAX_PIXELS
    skip_blank: bool = False
    blank_tolerance: int = 0

    def __post_init__(self) -> None:
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
        # YAML and JSON have lists only; a frozen value must hash
        object.__setattr__(self, name, tuple(value))

    @property
    @abstractmethod
    def max_tiles(self) -> int:
        """The most windows an image is cut into; the thumbnail comes on top."""

    @abstractmethod
    def plan(self, width: int, height: int) -> TilePlan:
        """How an image of ``width`` x ``height`` pixels is cut."""

    def __call__(self, image: Any, *, out: Tensor | None = None) -> Tiles:
        """Cut ``image`` (anything :func:`hdvl.images.read_image` takes) into uint8 ``t c h w``.

        The tiles lie in channels-last memory. ``out``, a contiguous uint8 tensor with room for
        ``max_tiles + 1`` tiles, receives the pixels instead of fresh memory; the result is then a
        view of it.
        """
        from hdvl.tilers import pixels

        if isinstance(self.padding, str):
            raise ValueError(
                "padding=mean is the encoder's mean colour, and this tiler has no encoder; use the "
                "tiler of the model, or give padding=[r,g,b]"
            )
        reading = pixels.Reading(
            exif=self.exif,
            background=self.background,
            max_pixels=self.max_pixels,
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
        """The plan, of an image that can be resized to it within the memory of ``max_pixels``.

        The width is resized first: an image of 10 x 10,000,000 pixels would have 4,480 x 10,000,000
        of them on the way to ten tiles.
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
    """``tiler`` with what depends on the encoder filled in: colours that are ``mean`` become its own."""
    if not isinstance(tiler, Cutter):
        return tiler
    red, green, blue = (int(level * 255) for level in mean)
    names = [entry.name for entry in fields(tiler) if getattr(tiler, entry.name) == MEAN]
    return replace(tiler, **dict.fromkeys(names, (red, green, blue))) if names else tiler


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {value!r}")


def check_thumbnail(thumbnail: str | None) -> None:
    """Refuse what is neither ``first`` nor ``last`` nor ``None``."""
    if thumbnail not in ("first", "last", None):
        raise ValueError(f"thumbnail must be 'first', 'last' or null, got {thumbnail!r}")


def check_image(width: int, height: int) -> None:
    """Refuse images without pixels."""
    if width < 1 or height < 1:
        raise ValueError(f"an image must have at least 1x1 pixels, got {width}x{height}")


def centred(size: Size, canvas: Size) -> Rect:
    """The rectangle of ``size`` in the middle of ``canvas``; it may be the larger one."""
    left = (canvas[0] - size[0]) // 2 if size[0] <= canvas[0] else -((size[0] - canvas[0]) // 2)
    top = (canvas[1] - size[1]) // 2 if size[1] <= canvas[1] else -((size[1] - canvas[1]) // 2)
    return left, top, left + size[0], top + size[1]
