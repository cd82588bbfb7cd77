"""Synthetic high-resolution documents with exact boxes: image and contents from seed, index."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from hdvl.data.synthetic.fonts import font_files
from hdvl.data.synthetic.layouts import LAYOUTS
from hdvl.data.synthetic.page import Color, Field, Glyph, Page
from hdvl.sequences import one_or_several

_PAPERS: tuple[tuple[Color, Color], ...] = (
    ((255, 255, 255), (15, 15, 15)),
    ((250, 248, 240), (30, 30, 40)),
    ((240, 244, 250), (10, 20, 60)),
    ((255, 250, 220), (60, 30, 10)),
    ((235, 235, 235), (0, 0, 0)),
)
_BOARDS: tuple[tuple[Color, Color], ...] = (
    ((20, 24, 40), (250, 240, 200)),
    ((10, 60, 40), (255, 255, 255)),
    ((30, 30, 30), (255, 210, 80)),
)
_STREETS: tuple[tuple[Color, Color], ...] = (
    ((205, 190, 170), (15, 15, 15)),
    ((190, 205, 220), (15, 15, 15)),
)


@dataclass(frozen=True)
class Document:
    """A rendered page: image, kind, language, what it says, its lines, and every glyph's cell."""

    image: Image.Image
    kind: str
    language: str
    fields: tuple[Field, ...]
    lines: tuple[str, ...]
    glyphs: tuple[Glyph, ...]


class SyntheticDocuments:
    """Documents number 0, 1, 2, ...; the same (options, seed, index) gives the same image.

    ``kinds``: of receipt, form, table, chart, sign, street, tag. ``chinese``: share of Chinese pages.
    ``width``, ``height``, ``entries``, ``font_size``: inclusive ranges, pixels for all but entries.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        kinds: str | Sequence[str] = tuple(LAYOUTS),
        chinese: float = 0.25,
        width: tuple[int, int] | list[int] = (896, 1120),
        height: tuple[int, int] | list[int] = (672, 896),
        entries: tuple[int, int] | list[int] = (4, 14),
        font_size: tuple[int, int] | list[int] = (13, 18),
    ) -> None:
        kinds = one_or_several(kinds, "kinds")
        unknown = sorted(set(kinds) - set(LAYOUTS))
        if unknown or not kinds:
            raise ValueError(f"kinds must be taken from {sorted(LAYOUTS)}, got {list(kinds)}")
        if not 0 <= chinese <= 1:
            raise ValueError(f"chinese must be a share in 0..1, got {chinese}")
        for name, span in {
            "width": width,
            "height": height,
            "entries": entries,
            "font_size": font_size,
        }.items():
            if len(span) != 2 or not 0 < span[0] <= span[1]:
                raise ValueError(
                    f"{name} must be a range [low, high] with 0 < low <= high, got {span}"
                )
        self.seed = seed
        self.kinds = tuple(kinds)
        self.chinese = chinese
        self.width, self.height = tuple(width), tuple(height)
        self.entries, self.font_size = tuple(entries), tuple(font_size)

    def __getitem__(self, index: int) -> Document:
        """Document number ``index``. If nothing fitted on a page, another one is drawn."""
        rng = random.Random(f"{self.seed}/{index}")
        while True:
            page, kind = self._draw(rng)
            if page.fields:
                return Document(
                    image=page.image,
                    kind=kind,
                    language=page.language,
                    fields=tuple(page.fields),
                    lines=tuple(page.lines()),
                    glyphs=tuple(page.glyphs),
                )

    def _draw(self, rng: random.Random) -> tuple[Page, str]:
        kind = rng.choice(self.kinds)
        language = "zh" if rng.random() < self.chinese else "en"
        looks = {"sign": _BOARDS, "street": _STREETS}.get(kind, _PAPERS)
        paper, ink = rng.choice(looks)
        page = Page(
            width=rng.randint(*self.width),
            height=rng.randint(*self.height),
            rng=rng,
            language=language,
            font_file=rng.choice(font_files(language)),
            font_size=rng.randint(*self.font_size),
            paper=paper,
            ink=ink,
        )
        LAYOUTS[kind](page, rng.randint(*self.entries))
        return page, kind
