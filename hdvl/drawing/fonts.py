"""Fonts, and labels of white text on a coloured rectangle."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

# Usual paths of a system font with Chinese, Japanese and Korean glyphs.
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


def font_for(text: str, size: int) -> Font | None:
    """Return a font of ``size`` pixels that has a glyph for every character of ``text``, or ``None``."""
    if text.isascii():
        return default_font(size)
    for file in _candidates():
        font = _load(file, size)
        if font is not None and _covers(font, text):
            return font
    return None


@lru_cache(maxsize=32)
def default_font(size: int) -> Font:
    """Return Pillow's built-in font, which has the letters of English."""
    return ImageFont.load_default(size)


def label_size(text: str, font: Font) -> tuple[int, int]:
    """Return (width, height) of the rectangle of a label."""
    left, top, right, bottom = font.getbbox(text)
    return round(right - left) + 4, round(bottom - top) + 4


def write_label(
    pen: ImageDraw.ImageDraw, text: str, at: tuple[float, float], font: Font, colour: Colour
) -> None:
    """Write ``text`` in white on a rectangle of ``colour`` whose top-left corner is ``at``."""
    left, top, _, _ = font.getbbox(text)
    width, height = label_size(text, font)
    x, y = at
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    pen.text((x + 2 - left, y + 2 - top), text, font=font, fill=(255, 255, 255))


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
    except OSError:  # this version of FreeType cannot read the font, but may read another one
        return None


def _covers(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Return whether the font has a glyph for every visible character."""
    missing_glyph = _glyph(font, "\U0010fffe")
    return all(
        _glyph(font, character) != missing_glyph
        for character in set(text)
        if not character.isspace()
    )


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
