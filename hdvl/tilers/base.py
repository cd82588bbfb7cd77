"""What all tilers share: the options that say how pixels are read and resized, and the call."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from hdvl.geometry import TilePlan
from hdvl.images import Colour

if TYPE_CHECKING:
    from torch import Tensor

    from hdvl.protocols import Tiles
else:  # a plan needs no torch: only cutting imports it
    Tensor = Tiles = Any

Resample = Literal["pillow", "exact", "fast"]


@dataclass(frozen=True, kw_only=True)
class Cutter(ABC):
    """Base of the tilers: ``plan`` is theirs, reading, resizing and cutting are the same for all.

    ``tile_size``: side of a tile in pixels. ``exif``: turn the picture by its EXIF orientation (the
    published systems do not). ``background``: colour under transparent pixels, ``None`` drops alpha
    (as the published systems do). ``resample``, how pixels are made, is one of

    - ``pillow``: Pillow's antialiased bicubic, bit for bit as the published systems, whatever the
      version of Pillow;
    - ``exact``: the same filter by torch, several times as fast, within 2/255 of Pillow's;
    - ``fast``: as ``exact``, but a JPEG of at least twice the canvas is decoded at 1/2, 1/4 or 1/8
      of its size, and the thumbnail is made from the canvas if that is smaller (about 46 dB to
      ``exact`` on photos, 38 dB on pages of text).
    """

    tile_size: int
    exif: bool = True
    background: Colour | None = (255, 255, 255)
    resample: Resample = "pillow"

    def __post_init__(self) -> None:
        if self.tile_size < 1:
            raise ValueError(f"tile_size must be at least 1, got {self.tile_size}")
        if self.resample not in get_args(Resample):
            raise ValueError(f"resample must be one of {get_args(Resample)}, got {self.resample!r}")
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
        """The most windows a picture is cut into; the thumbnail comes on top."""

    @abstractmethod
    def plan(self, width: int, height: int) -> TilePlan:
        """How a picture of ``width`` x ``height`` pixels is cut."""

    def __call__(self, image: Any, *, out: Tensor | None = None) -> Tiles:
        """Cut ``image`` (anything :func:`hdvl.images.read_image` takes) into uint8 ``t c h w``.

        The tiles lie in channels-last memory. ``out``, a contiguous uint8 tensor with room for
        ``max_tiles + 1`` tiles, receives the pixels instead of fresh memory; the result is then a
        view of it.
        """
        from hdvl.tilers import pixels

        return pixels.METHODS[self.resample](
            image, plan=self.plan, exif=self.exif, background=self.background, out=out
        )


def check_thumbnail(thumbnail: str | None) -> None:
    """Refuse what is neither ``first`` nor ``last`` nor ``None``."""
    if thumbnail not in ("first", "last", None):
        raise ValueError(f"thumbnail must be 'first', 'last' or null, got {thumbnail!r}")


def check_picture(width: int, height: int) -> None:
    """Refuse pictures without pixels."""
    if width < 1 or height < 1:
        raise ValueError(f"a picture must have at least 1x1 pixels, got {width}x{height}")
