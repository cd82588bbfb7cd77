"""Boxes with labels, and tile grids, drawn on images."""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hdvl.protocols import GroundedBox, TilePlan

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (214, 39, 40),
    (31, 119, 180),
    (44, 160, 44),
    (148, 103, 189),
    (255, 127, 14),
    (23, 160, 170),
    (227, 60, 160),
)
# Where systems keep a font with Chinese, Japanese and Korean glyphs.
_SYSTEM_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc",
    "C:/Windows/Fonts/msyh.ttc",
    "C:/Windows/Fonts/simsun.ttc",
)


def draw_boxes(
    image: Image.Image, boxes: Sequence[GroundedBox], *, colours: Sequence[Colour] = COLOURS
) -> Image.Image:
    """A copy of ``image`` with each box outlined (around it) and labelled; equal labels share a colour.

    Quadrilaterals are outlined along their edges.

    Line width and letters grow with the image. Labels that no installed font can write are numbered
    instead, and a warning says which.
    """
    drawn = image.convert("RGB")
    if drawn is image:
        drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    width = max(2, round(min(drawn.size) / 250))
    size = max(12, round(min(drawn.size) / 45))
    labels = list(dict.fromkeys(box.label for box in boxes))
    for box in boxes:
        number = labels.index(box.label)
        colour = colours[number % len(colours)]
        x0, y0, x1, y1 = box.box
        # Around the box, so that small text stays legible. Pillow includes the last pixel.
        left, top = max(0.0, x0 - width), max(0.0, y0 - width)
        corners = (
            left,
            top,
            max(left, min(drawn.width, max(x0 + 1, x1) + width) - 1),
            max(top, min(drawn.height, max(y0 + 1, y1) + width) - 1),
        )
        if box.points:
            pen.polygon(box.points, outline=colour, width=width)
        else:
            pen.rectangle(corners, outline=colour, width=width)
        if box.label:
            _label(pen, box.label, number, corners, size=size, colour=colour, on=drawn.size)
    return drawn


def draw_tiles(image: Image.Image, plan: TilePlan) -> Image.Image:
    """A copy of ``image`` with the outline and the number of every tile but the thumbnail.

    ``image`` may have been scaled in proportion. Where tiles overlap, every second one is drawn a line
    further inside, so that each can be told from the next.

    Raises:
        ValueError: ``image`` is not in the proportions of ``plan``.
    """
    scale_x, scale_y = image.width / plan.width, image.height / plan.height
    far_x, far_y = image.width - plan.width * scale_y, image.height - plan.height * scale_x
    if abs(far_x) > 1 and abs(far_y) > 1:
        raise ValueError(
            f"plan must belong to the image of {image.width}x{image.height}, it is for "
            f"{plan.width}x{plan.height}"
        )
    drawn = image.convert("RGB")
    if drawn is image:
        drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    width = max(1, round(min(drawn.size) / 400))
    font = _default_font(max(11, round(min(drawn.size) / 50)))
    for number, view in enumerate(plan.views):
        if view.row is None or view.col is None:
            continue
        box, row, col = view.box, view.row, view.col
        inset = width * ((row + col) % 2)
        x0, y0 = max(0.0, box[0] * scale_x) + inset, max(0.0, box[1] * scale_y) + inset
        x1 = max(x0, min(box[2] * scale_x, float(image.width)) - 1 - inset)
        y1 = max(y0, min(box[3] * scale_y, float(image.height)) - 1 - inset)
        colour = COLOURS[(row * 3 + col) % len(COLOURS)]
        pen.rectangle((x0, y0, x1, y1), outline=colour, width=width)
        _write(pen, str(number), (x0 + width, y0 + width), font, colour)
    return drawn


def font_for(text: str, size: int) -> Font | None:
    """A font at ``size`` pixels that has a glyph for every character of ``text``, or None."""
    if text.isascii():
        return _default_font(size)
    for file in _candidates():
        font = _load(file, size)
        if font is not None and _covers(font, text):
            return font
    return None


def _label(
    pen: ImageDraw.ImageDraw,
    label: str,
    number: int,
    corners: tuple[float, float, float, float],
    *,
    size: int,
    colour: Colour,
    on: tuple[int, int],
) -> None:
    font, text = font_for(label, size), label
    if font is None:
        warnings.warn(
            f"no installed font can write the label {label!r}, it is drawn as #{number + 1}; "
            "install one: pip install mplfonts",
            stacklevel=3,
        )
        font, text = _default_font(size), f"#{number + 1}"
    left, top, right, bottom = font.getbbox(text)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(0.0, corners[0]), max(0.0, on[0] - width))
    y = corners[1] - height if corners[1] >= height else min(corners[1], on[1] - height)
    _write(pen, text, (x, y), font, colour)


def _write(
    pen: ImageDraw.ImageDraw, text: str, at: tuple[float, float], font: Font, colour: Colour
) -> None:
    """White on a plate of ``colour`` whose top left corner is ``at``."""
    left, top, right, bottom = font.getbbox(text)
    x, y = at
    pen.rectangle((x, y, x + right - left + 3, y + bottom - top + 3), fill=colour)
    pen.text((x + 2 - left, y + 2 - top), text, font=font, fill=(255, 255, 255))


@lru_cache(maxsize=32)
def _default_font(size: int) -> Font:
    return ImageFont.load_default(size)


def _candidates() -> list[Path]:
    files = [Path(name) for name in _SYSTEM_FONTS]
    spec = find_spec("mplfonts")
    if spec is not None and spec.origin is not None:
        files.insert(0, Path(spec.origin).parent / "fonts" / "NotoSansCJKsc-Regular.otf")
    return [file for file in files if file.is_file()]


@lru_cache(maxsize=64)
def _load(file: Path, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(str(file), size)
    except OSError:  # not a font that this FreeType reads: the next one may be
        return None


def _covers(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Whether no visible character comes out as the font's sign for "no such glyph"."""
    absent = _shape(font, "\U0010fffe")
    return all(_shape(font, sign) != absent for sign in set(text) if not sign.isspace())


def _shape(font: ImageFont.FreeTypeFont, sign: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(sign)
    return mask.size, bytes(mask)
