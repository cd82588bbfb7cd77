"""Pages of a suite that measures what a model reads, locates, counts and compares, and where it fails.

Each page is a form of labels and values. The factors of its difficulty are set exactly: its width, the
height of its text, how full it is, its rotation, and the JPEG quality it is stored with.
"""

import io
import math
import random
from dataclasses import dataclass, replace

from PIL import Image

import hdvl.data.synthetic.words as words
from hdvl.data.synthetic.fonts import font_files
from hdvl.data.synthetic.page import Field, Page
from hdvl.protocols import Box

DENSITIES = {"sparse": (2, 6), "dense": (24, 40)}
"""Inclusive ranges of the number of entries of a page; a page may hold fewer."""


@dataclass(frozen=True)
class Difficulty:
    """The difficulty of a page.

    Attributes:
        width: of the page in pixels; its height is three quarters of it.
        text_height: size of the font in pixels, from the top of ascenders to the bottom of descenders about
            a fifth more.
        density: one of :data:`DENSITIES`.
        rotation: degrees, either way.
        quality: JPEG quality.
    """

    width: int = 1008
    text_height: int = 16
    density: str = "sparse"
    rotation: float = 0.0
    quality: int = 95

    def __post_init__(self) -> None:
        if self.density not in DENSITIES:
            raise ValueError(f"density must be one of {', '.join(DENSITIES)}, got {self.density!r}")
        for name, value, low, high in (
            ("width", self.width, 96, 16384),
            ("text_height", self.text_height, 4, 256),
            ("rotation", self.rotation, 0, 45),
            ("quality", self.quality, 1, 100),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be in {low}..{high}, got {value}")


@dataclass(frozen=True)
class SuitePage:
    """A page: its JPEG file, its size, and its fields with their boxes after rotation."""

    jpeg: bytes
    size: tuple[int, int]
    fields: tuple[Field, ...]


def suite_page(seed: str, difficulty: Difficulty) -> SuitePage:
    """The page of a seed. The contents of pages that differ in rotation or quality alone are the same.

    Raises:
        ValueError: no label with its value fits on the page.
    """
    rng = random.Random(seed)
    page = Page(
        width=difficulty.width,
        height=difficulty.width * 3 // 4,
        rng=rng,
        language="en",
        font_file=rng.choice(font_files("en")),
        font_size=difficulty.text_height,
    )
    _fill(page, rng.randint(*DENSITIES[difficulty.density]))
    if not page.fields:
        raise ValueError(
            f"a page of {difficulty.width} px must hold text of {difficulty.text_height} px, nothing fitted; "
            "use a larger width"
        )
    angle = difficulty.rotation * rng.choice((-1, 1))
    image, fields = page.image, tuple(page.fields)
    if angle:
        fields = tuple(replace(one, box=rotated(one.box, image.size, angle)) for one in fields)
        image = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=page.paper)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=difficulty.quality)
    return SuitePage(file.getvalue(), image.size, fields)


def _fill(page: Page, entries: int) -> None:
    """Write up to ``entries`` labels with values at random places of a grid, away from the border."""
    rng, step = page.rng, int(page.font_size * 1.6)
    margin = max(4, page.width // 24)
    cell = page.font_size * 13  # wide enough for the longest label and value
    columns = max(1, (page.width - 2 * margin) // cell)
    rows = max(1, (page.height - 2 * margin) // step)
    names = rng.sample(words.LABELS["en"], min(entries, columns * rows, len(words.LABELS["en"])))
    spots = sorted(rng.sample(range(columns * rows), len(names)))
    for name, spot in zip(names, spots, strict=True):
        x, y = margin + spot % columns * cell, margin + spot // columns * step
        shown = f"{name.title()}: "
        value = rng.choice((words.price, words.number, words.clock, words.phone))(rng)
        left = x + page.measure(shown)
        if left + page.measure(value) > page.width - margin:
            continue
        page.text(x, y, shown)
        box = page.text(left, y, value)
        page.add_field(name.lower(), value, box, words.phrase("label", "en", labels=name))


def rotated(box: Box, size: tuple[int, int], degrees: float) -> Box:
    """The upright box around ``box`` after an image of ``size`` was turned about its centre.

    >>> [round(side, 3) for side in rotated((0, 0, 2, 1), (4, 4), 90)]
    [0.0, 2.0, 1.0, 4.0]
    """
    x, y = size[0] / 2, size[1] / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(box[0], box[1]), (box[2], box[1]), (box[0], box[3]), (box[2], box[3])]
    turned = [
        (x + (a - x) * cos + (b - y) * sin, y - (a - x) * sin + (b - y) * cos) for a, b in corners
    ]
    xs, ys = zip(*turned, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
