"""Freely licensed fonts, found inside installed font packages.

Three sets: ``few``, in which the older pages are drawn; ``many``, which holds them too; and ``held_out``,
which no training draws with, for the evaluation on foreign pages. The licences are listed in README.md.
"""

import io
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, pairwise
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
MORE_LATIN = (
    *(("font_lato", f"files/Lato-{style}.ttf") for style in ("Regular", "Bold", "Italic")),
    *(("font_hanken_grotesk", f"files/HankenGrotesk-{style}.otf") for style in ("Medium", "Bold")),
    *(("font_rhd", f"files/RedHatDisplay-{style}.ttf") for style in ("Medium", "Bold")),
    *(
        ("rendercv_fonts", f"Noto Sans/NotoSans-{style}.ttf")
        for style in ("Regular", "Bold", "Italic")
    ),
    *(("rendercv_fonts", f"Raleway/Raleway-{style}.ttf") for style in ("Regular", "Bold")),
    *(("rendercv_fonts", f"Poppins/Poppins-{style}.ttf") for style in ("Regular", "Bold")),
    *(("rendercv_fonts", f"Mukta/Mukta-{style}.ttf") for style in ("Regular", "Bold")),
    *(("rendercv_fonts", f"EB Garamond/EBGaramond-{style}.ttf") for style in ("Regular", "Bold")),
    ("rendercv_fonts", "Open Sauce Sans/OpenSauceSans-Regular.ttf"),
    ("rendercv_fonts", "Gentium Book Plus/GentiumBookPlus-Regular.ttf"),
    ("rendercv_fonts", "Gentium Book Plus/GentiumBookPlus-Bold.ttf"),
    ("pymupdf_fonts", "CascadiaMono_Regular.py"),
    ("pymupdf_fonts", "CascadiaMono_Bold.py"),
    ("pymupdf_fonts", "FiraMono_Regular.py"),
    ("pymupdf_fonts", "FiraMono_Bold.py"),
    ("pymupdf_fonts", "SpaceMono_Regular.py"),
    ("pymupdf_fonts", "FiraGO_Regular.py"),
    ("mplfonts", "fonts/SourceHanMonoSC-Regular.otf"),
)
MORE_CHINESE = (
    ("mplfonts", "fonts/NotoSansMonoCJKsc-Regular.otf"),
    ("mplfonts", "fonts/NotoSerifCJKsc-Regular.otf"),
)
HELD_OUT_LATIN = (
    ("rendercv_fonts", "Open Sans/OpenSans-Regular.ttf"),
    ("rendercv_fonts", "Open Sans/OpenSans-Bold.ttf"),
    ("rendercv_fonts", "XCharter/XCharter-Regular.otf"),
    ("rendercv_fonts", "XCharter/XCharter-Bold.otf"),
    ("rendercv_fonts", "Ubuntu/Ubuntu-Regular.ttf"),
    ("font_manrope", "files/Manrope-Medium.ttf"),
    ("font_fjallaone", "files/FjallaOne-Regular.ttf"),
    ("pymupdf_fonts", "UbuntuMono_Regular.py"),
    ("pymupdf_fonts", "UbuntuMono_Bold.py"),
)
SETS = {
    "few": {"en": LATIN, "zh": CHINESE},
    "many": {"en": LATIN + MORE_LATIN, "zh": CHINESE + MORE_CHINESE},
    "held_out": {"en": HELD_OUT_LATIN, "zh": (("mplfonts", "fonts/SourceHanSerifSC-Regular.otf"),)},
}


@cache
def font_files(language: str, fonts: str = "few") -> tuple[Path, ...]:
    """Files of one of the ``SETS`` of fonts for ``language`` (``"en"`` or ``"zh"``)."""
    if fonts not in SETS:
        raise ValueError(f"fonts must be one of {sorted(SETS)}, got {fonts!r}")
    wanted = SETS[fonts].get(language)
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


@lru_cache(maxsize=1024)
def load_font(file: Path, size: int) -> ImageFont.FreeTypeFont:
    """The font at ``size`` pixels; basic layout, so that glyph positions are prefix lengths."""
    source = str(file) if file.suffix != ".py" else _from_module(file)
    return ImageFont.truetype(source, size, layout_engine=ImageFont.Layout.BASIC)


def prefix_lengths(file: Path, size: int, text: str) -> list[float]:
    """The advance widths of the first 1, 2, ... characters of ``text``."""
    pairs = pairwise(("", *text))
    return list(accumulate(_advance(file, size, before, char) for before, char in pairs))


@lru_cache(maxsize=262144)
def _advance(file: Path, size: int, before: str, char: str) -> float:
    """The advance width of a character, with its kerning after the character ``before``."""
    length = load_font(file, size).getlength(before + char)
    return length - _advance(file, size, "", before) if before else length


@lru_cache(maxsize=16384)
def glyph_edges(file: Path, size: int, char: str) -> tuple[float, float, float, float]:
    """The edges of the ink of a character that is drawn at (0, 0)."""
    return load_font(file, size).getbbox(char)


def _from_module(file: Path) -> io.BytesIO:
    """A font of the package pymupdf-fonts, which keeps each one as bytes in a module of its own."""
    return io.BytesIO(import_module(f"{file.parent.name}.{file.stem}").fontbuffer)
