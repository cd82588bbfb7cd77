"""A page that is being drawn and records the position of every glyph."""

import random
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

from PIL import Image, ImageDraw

from hdvl.data.synthetic.fonts import glyph_edges, load_font, prefix_lengths
from hdvl.data.synthetic.style import PLAIN, Color, Style, write
from hdvl.protocols import Box


@dataclass(frozen=True)
class Glyph:
    """One drawn character, its cell (advance wide, ascent to descent high) and its ink, in pixels.

    ``word`` is the text between spaces that it is a part of.
    """

    char: str
    box: Box
    ink: Box
    word: str


@dataclass(frozen=True)
class Field:
    """A field of a document: a name with a value.

    Attributes:
        name: what a question calls the field.
        value: the printed text.
        box: the smallest box around the ink of the value, in pixels.
        question: the question for the value.
        span: the value consists of ``document.glyphs[span[0]:span[1]]``.
    """

    name: str
    value: str
    box: Box
    question: str
    span: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Document:
    """A rendered page: its image, kind and language, its fields and lines of text, and every glyph."""

    image: Image.Image
    kind: str
    language: str
    fields: tuple[Field, ...]
    lines: tuple[str, ...]
    glyphs: tuple[Glyph, ...]


@dataclass
class Page:
    """A page that is being drawn. All random choices come from ``rng``, so the seed determines the page."""

    width: int
    height: int
    rng: random.Random
    language: str
    font_file: Path
    font_size: int
    paper: Color = (255, 255, 255)
    ink: Color = (20, 20, 20)
    invented: bool = False
    style: Style = PLAIN
    glyphs: list[Glyph] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    strings: list[tuple[int, int, str]] = field(default_factory=list)
    spans: dict[Box, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.width, self.height), self.paper)
        self.draw = ImageDraw.Draw(self.image)

    @property
    def line_spacing(self) -> int:
        """The distance between two base lines in pixels."""
        return int(self.font_size * (1.45 if self.language == "zh" else 1.25))

    def measure(self, text: str, size: int | None = None) -> int:
        """The advance width of ``text`` in pixels, rounded up."""
        length = load_font(self.font_file, size or self.font_size).getlength(text)
        return int(length * self.style.stretch) + 1

    def text(
        self, x: int, y: int, text: str, *, ink: Color | None = None, size: int | None = None
    ) -> Box:
        """Write ``text`` with the top left corner of its cell at (x, y); returns the box around its ink."""
        size = size or self.font_size
        font = load_font(self.font_file, size)
        self.strings.append((y, x, text.strip()))
        write(self.image, (x, y), text, font, ink or self.ink, self.style)
        ascent, descent = font.getmetrics()
        stretch = self.style.stretch
        ends = [stretch * end for end in prefix_lengths(self.font_file, size, text)]
        first = len(self.glyphs)
        words = [word for word in text.split(" ") for _ in range(len(word) + 1)]
        # ``words`` has one entry more: for the space that would follow the last word.
        for char, word, (start, end) in zip(text, words, pairwise([0.0, *ends]), strict=False):
            if not char.isspace():
                cell = (x + start, float(y), x + end, float(y + ascent + descent))
                edges = glyph_edges(self.font_file, size, char)
                left, top, right, bottom = self.style.edges(edges, ascent)
                inked = (x + start + left, float(y + top), x + start + right, float(y + bottom))
                self.glyphs.append(Glyph(char, cell, inked, word))
        left, top, right, bottom = self.style.edges(font.getbbox(text), ascent)
        box = float(x + left), float(y + top), float(x + right), float(y + bottom)
        self.spans[box] = first, len(self.glyphs)
        return box

    def text_right(self, x: int, y: int, text: str, *, ink: Color | None = None) -> Box:
        """Write ``text`` so that it ends at ``x``."""
        return self.text(x - self.measure(text), y, text, ink=ink)

    def add_field(self, name: str, value: str, box: Box, question: str) -> None:
        """Add a field that can be asked for; ``box`` is what :meth:`text` returned for the value."""
        self.fields.append(Field(name, value, box, question, self.spans[box]))

    def lines(self) -> list[str]:
        """The lines of the page from top to bottom. Strings at one height form a line, left to right."""
        rows = groupby(sorted(self.strings), key=itemgetter(0))
        return [" ".join(text for _, _, text in row) for _, row in rows]

    def document(self, kind: str) -> Document:
        """The current page as a document of ``kind``."""
        return Document(
            image=self.image,
            kind=kind,
            language=self.language,
            fields=tuple(self.fields),
            lines=tuple(self.lines()),
            glyphs=tuple(self.glyphs),
        )

    def fits(self, x: int, y: int, width: int) -> bool:
        """Whether a line of ``width`` px at (x, y) stays on the page."""
        return (
            x >= 0 and x + width <= self.width - 4 and y + self.font_size * 1.5 <= self.height - 2
        )
