"""Draws the characters of a font otherwise, so that pages look as if drawn in more fonts than there are."""

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Edges = tuple[float, float, float, float]


@dataclass(frozen=True)
class Style:
    """How characters differ from those of their font.

    Attributes:
        stretch: their width, relative to the font's.
        slant: how far they lean to the right, in pixels for each pixel of height.
        stroke: by how much their strokes are thicker on each side, in pixels.
    """

    stretch: float = 1.0
    slant: float = 0.0
    stroke: float = 0.0

    def edges(self, edges: Edges, ascent: int) -> Edges:
        """Where ink (left, top, right, bottom) reaches in this style.

        Both are pixels from the top left corner of the cell, whose base line is ``ascent`` below it.
        """
        left, top, right, bottom = edges
        shifts = self.slant * (ascent - top), self.slant * (ascent - bottom)
        left, right = self.stretch * left + min(shifts), self.stretch * right + max(shifts)
        return left - self.stroke, top - self.stroke, right + self.stroke, bottom + self.stroke


PLAIN = Style()


def some_style(rng: random.Random) -> Style:
    """A style in which text stays well legible."""
    return Style(
        stretch=rng.uniform(0.68, 1.2),
        slant=rng.choice((0.0, 0.0, rng.uniform(-0.05, 0.25))),
        stroke=rng.choice((0.0, 0.0, rng.uniform(0.05, 0.45))),
    )


def write(
    image: Image.Image,
    place: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont,
    ink: Color,
    style: Style,
) -> None:
    """Draw ``text`` with the top left corner of its cell at ``place``."""
    if style == PLAIN:
        ImageDraw.Draw(image).text(place, text, font=font, fill=ink)
        return
    ascent, descent = font.getmetrics()
    margin, above = ascent, 2  # room for what leans out of the text, and for strokes
    length = font.getlength(text) * max(1.0, style.stretch)
    mask = Image.new("L", (int(length) + 2 * margin, ascent + descent + 2 * above))
    drawn = ImageDraw.Draw(mask)
    drawn.text((margin, above), text, fill=255, font=font, stroke_width=style.stroke)
    # For each pixel of the result, where it was before; the base line stays where it is.
    start = margin - (margin + style.slant * (ascent + above)) / style.stretch
    before = (1 / style.stretch, style.slant / style.stretch, start, 0, 1, 0)
    moved = mask.transform(mask.size, Image.Transform.AFFINE, before, Image.Resampling.BICUBIC)
    image.paste(ink, (place[0] - margin, place[1] - above), moved)
