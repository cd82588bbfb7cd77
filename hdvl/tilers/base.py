"""What all tilers share: the options that say how pixels are read and resized, and the call."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from hdvl.geometry import TilePlan
from hdvl.images import MAX_PIXELS, Colour

if TYPE_CHECKING:
    from torch import Tensor

    from hdvl.protocols import Tiles
else:  # a plan needs no torch: only cutting imports it
    Tensor = Tiles = Any

Resample = Literal["pillow", "exact", "fast"]


@dataclass(frozen=True, kw_only=True)
class Cutter(ABC):
    """Base of the tilers: ``plan`` is theirs, reading, resizing and cutting are the same for all.

    ``tile_size``: side of a tile in pixels. ``exif``: turn the image by its EXIF orientation (the
    published systems do not). ``background``: colour under transparent pixels, ``None`` drops alpha
    (as the published systems do). ``resample``, how pixels are made, is one of

    - ``pillow``: Pillow's antialiased bicubic, bit for bit as the published systems, whatever the
      version of Pillow;
    - ``exact``: the same filter by torch, several times as fast, within 2/255 of Pillow's;
    - ``fast``: as ``exact``, but a JPEG of at least twice the canvas is decoded at 1/2, 1/4 or 1/8
      of its size, and the thumbnail is made from the canvas if that is smaller (about 46 dB to
      ``exact`` on photos, 38 dB on pages of text).

    ``max_pixels``: images of more pixels are refused before they are decoded, and so are those so
    narrow that they would have more on the way to their new width. At the default, Pillow's own
    limit, an image takes at most 1.4 GB of memory (:data:`hdvl.images.BYTES_PER_PIXEL`).
    """

    tile_size: int
    exif: bool = True
    background: Colour | None = (255, 255, 255)
    resample: Resample = "pillow"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.tile_size < 1:
            raise ValueError(f"tile_size must be at least 1, got {self.tile_size}")
        if self.resample not in get_args(Resample):
            raise ValueError(f"resample must be one of {get_args(Resample)}, got {self.resample!r}")
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            raise ValueError(
                f"max_pixels must be in 1..{MAX_PIXELS}, where Pillow stops, got {self.max_pixels}"
            )
        if self.background is not None:
            if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
                raise ValueError(
                    f"background must be three numbers in 0..255, or null, got {self.background}"
                )
            # YAML and JSON have lists only; a frozen value must hash
            object.__setattr__(self, "background", tuple(self.background))

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

        return pixels.METHODS[self.resample](
            image,
            plan=self.checked_plan,
            exif=self.exif,
            background=self.background,
            max_pixels=self.max_pixels,
            out=out,
        )

    def checked_plan(self, width: int, height: int) -> TilePlan:
        """The plan, of an image that can be resized to it within the memory of ``max_pixels``.

        The width is resized first: an image of 10 x 10,000,000 pixels would have 4,480 x 10,000,000
        of them on the way to ten tiles.
        """
        plan = self.plan(width, height)
        new_width = plan.content[2] - plan.content[0]
        if new_width * height > self.max_pixels:
            raise ValueError(
                f"an image of {width}x{height} pixels is too narrow: resized to a width of "
                f"{new_width} it has more than max_pixels={self.max_pixels}; cut it into pieces"
            )
        return plan


def check_thumbnail(thumbnail: str | None) -> None:
    """Refuse what is neither ``first`` nor ``last`` nor ``None``."""
    if thumbnail not in ("first", "last", None):
        raise ValueError(f"thumbnail must be 'first', 'last' or null, got {thumbnail!r}")


def check_image(width: int, height: int) -> None:
    """Refuse images without pixels."""
    if width < 1 or height < 1:
        raise ValueError(f"an image must have at least 1x1 pixels, got {width}x{height}")
