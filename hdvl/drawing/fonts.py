"""Text on images: fonts, and words on a plate of one colour."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

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
    """Return Pillow's own font, which has the English letters."""
    return ImageFont.load_default(size)


def plate_size(text: str, font: Font) -> tuple[int, int]:
    """Return (width, height) of ``text`` on its plate."""
    left, top, right, bottom = font.getbbox(text)
    return round(right - left) + 4, round(bottom - top) + 4


def write_on_plate(
    pen: ImageDraw.ImageDraw, text: str, at: tuple[float, float], font: Font, colour: Colour
) -> None:
    """Write ``text`` in white on a plate of ``colour`` whose top-left corner is ``at``."""
    left, top, _, _ = font.getbbox(text)
    width, height = plate_size(text, font)
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
    except OSError:  # this version of FreeType does not read the font: the next one may be read
        return None


def _covers(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Return whether no visible character is drawn as the sign for "no such glyph"."""
    absent = _shape(font, "\U0010fffe")
    return all(_shape(font, sign) != absent for sign in set(text) if not sign.isspace())


def _shape(font: ImageFont.FreeTypeFont, sign: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(sign)
    return mask.size, bytes(mask)
