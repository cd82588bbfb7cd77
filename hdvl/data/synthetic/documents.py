"""Synthetic high-resolution documents with exact boxes, determined by a seed and an index."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from hdvl.data.synthetic.described import described, draw_layout, layout_names
from hdvl.data.synthetic.fonts import SETS, font_files
from hdvl.data.synthetic.layouts import LAYOUTS
from hdvl.data.synthetic.looks import photographed, picture
from hdvl.data.synthetic.page import Document, Page
from hdvl.data.synthetic.style import Color, some_style
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
_TINTED: tuple[tuple[Color, Color], ...] = (
    ((255, 228, 196), (60, 20, 10)),
    ((205, 225, 245), (10, 25, 80)),
    ((210, 235, 205), (10, 50, 20)),
    ((250, 215, 220), (90, 10, 30)),
    ((245, 235, 150), (20, 20, 20)),
    ((190, 190, 195), (15, 15, 15)),
)
_DARK: tuple[tuple[Color, Color], ...] = (
    *_BOARDS,
    ((60, 15, 25), (250, 225, 210)),
    ((15, 15, 20), (120, 235, 150)),
    ((25, 45, 95), (240, 245, 255)),
)
_STREETS: tuple[tuple[Color, Color], ...] = (
    ((205, 190, 170), (15, 15, 15)),
    ((190, 205, 220), (15, 15, 15)),
)


class SyntheticDocuments:
    """Documents number 0, 1, 2, ...; the same (options, seed, index) gives the same image.

    Args:
        seed: pages of different seeds are independent samples of the same distribution.
        kinds: one kind is drawn for each document, so a kind that is listed twice is twice as frequent. Kinds
            are receipt, form, table, chart, sign, street and tag; the layouts of ``layouts.yaml`` by name;
            ``described`` for any of those that may be trained on and ``foreign`` for any of those that
            may not; and ``picture`` for a picture that is no document, which has no fields. The layouts of
            ``layouts.yaml`` are English, and a picture has no language of its own.
        chinese: share of Chinese documents among those of the first seven kinds.
        width: range of the width, in pixels; ranges include both ends.
        height: range of the height, in pixels.
        entries: range of the number of entries.
        font_size: range of the font size, in pixels.
        fonts: one of the sets in :mod:`hdvl.data.synthetic.fonts`: ``few``, ``many``, ``held_out``.
        photographed: share of the documents that look as if photographed or scanned: turned, shaded,
            blurred, noisy.
        turn: the most that these are turned, in degrees.
        invented: share of the documents of ``layouts.yaml`` whose labels are invented words
            (:func:`hdvl.data.synthetic.values.invented_label`).
        styled: share of the documents whose characters are stretched, slanted or bolder, as those of other
            fonts may be.

    Raises:
        ValueError: an option is out of its range.
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
        fonts: str = "few",
        photographed: float = 0.0,
        turn: float = 5.0,
        invented: float = 0.0,
        styled: float = 0.0,
    ) -> None:
        kinds = one_or_several(kinds, "kinds")
        known = [*LAYOUTS, *_GROUPS, "picture", *described()]
        unknown = sorted(set(kinds) - set(known))
        if unknown or not kinds:
            raise ValueError(f"kinds must be taken from {known}, got {list(kinds)}")
        shares = {
            "chinese": chinese,
            "photographed": photographed,
            "invented": invented,
            "styled": styled,
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be a share in 0..1, got {share}")
        if not 0 <= turn <= 45:
            raise ValueError(f"turn must be in 0..45 degrees, got {turn}")
        if fonts not in SETS:
            raise ValueError(f"fonts must be one of {sorted(SETS)}, got {fonts!r}")
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
        self.fonts, self.photographed, self.turn = fonts, photographed, turn
        self.invented, self.styled = invented, styled

    def __getitem__(self, index: int) -> Document:
        """Document number ``index``. If nothing fitted on a page, another one is drawn."""
        rng = random.Random(f"{self.seed}/{index}")
        while True:
            document = self._draw(rng)
            if self.photographed and rng.random() < self.photographed:
                document = photographed(document, rng, turn=self.turn)
            if document.fields or document.kind == "picture":
                return document

    def _draw(self, rng: random.Random) -> Document:
        kind = rng.choice(self.kinds)
        if kind in _GROUPS:
            kind = rng.choice(_GROUPS[kind])
        language = "zh" if rng.random() < self.chinese else "en"
        if kind == "picture":
            image = picture(rng.randint(*self.width), rng.randint(*self.height), rng)
            return Document(image, kind, language, (), (), ())
        layout = described().get(kind)
        if layout is not None:
            language, looks = "en", _look(rng, layout)
        else:
            looks = {"sign": _BOARDS, "street": _STREETS}.get(kind, _PAPERS)
        paper, ink = rng.choice(looks)
        page = Page(
            width=rng.randint(*self.width),
            height=rng.randint(*self.height),
            rng=rng,
            language=language,
            font_file=rng.choice(font_files(language, self.fonts)),
            font_size=rng.randint(*self.font_size),
            paper=paper,
            ink=ink,
        )
        entries = rng.randint(*self.entries)
        if layout is not None and self.invented:
            # Without a share no random number is drawn: documents stay those of earlier versions.
            page.invented = rng.random() < self.invented
        if self.styled and rng.random() < self.styled:
            page.style = some_style(rng)
        if layout is None:
            LAYOUTS[kind](page, entries)
        else:
            draw_layout(page, layout, entries)
        return page.document(kind)


_GROUPS = {"described": layout_names(foreign=False), "foreign": layout_names(foreign=True)}


def _look(rng: random.Random, layout: Mapping[str, Any]) -> tuple[tuple[Color, Color], ...]:
    """The pairs of paper and ink colours that a described layout allows."""
    papers = layout.get("paper", "light")
    paper = rng.choice(papers) if isinstance(papers, list) else papers
    return {"light": _PAPERS, "tinted": _TINTED, "dark": _DARK}[paper]


def papers() -> tuple[tuple[Color, Color], ...]:
    """All pairs of paper and ink colours that documents have."""
    return (*_PAPERS, *_TINTED, *_DARK, *_STREETS)
