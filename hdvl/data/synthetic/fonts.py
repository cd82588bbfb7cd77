"""Freely licensed fonts, found inside installed font packages.

Latin: Source Sans, Source Serif, Caladea (SIL Open Font License), Roboto (Apache-2.0).
Chinese: Noto Sans CJK SC (SIL Open Font License) out of the package ``mplfonts``.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

LATIN = (
    ("font_source_sans_pro", "files/SourceSansPro-Regular.ttf"),
    ("font_source_sans_pro", "files/SourceSansPro-Semibold.ttf"),
    ("font_source_serif_pro", "files/SourceSerifPro-Regular.ttf"),
    ("font_caladea", "files/Caladea-Regular.ttf"),
    ("font_roboto", "files/Roboto-Regular.ttf"),
    ("font_roboto", "files/Roboto-Medium.ttf"),
)
CHINESE = (("mplfonts", "fonts/NotoSansCJKsc-Regular.otf"),)


def font_files(language: str) -> tuple[Path, ...]:
    """Files of the fonts for ``language`` (``"en"`` or ``"zh"``)."""
    wanted = {"en": LATIN, "zh": CHINESE}.get(language)
    if wanted is None:
        raise ValueError(f"language must be 'en' or 'zh', got {language!r}")
    return tuple(_locate(package, file) for package, file in wanted)


def _locate(package: str, file: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"synthetic documents need the font package {package!r}; "
            "install it with: pip install 'hdvl[synthetic]'"
        )
    return Path(spec.origin).parent / file


@lru_cache(maxsize=256)
def load_font(file: Path, size: int) -> ImageFont.FreeTypeFont:
    """The font at ``size`` pixels; basic layout, so that glyph positions are prefix lengths."""
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)
