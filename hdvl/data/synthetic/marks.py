"""Pages with many small marks of one shape, or with one figure as large as the page, to study tiling.

Marks are best recognised at the resolution of the page, a figure from the whole page. A model of a few
hundred thousand parameters learns to answer questions about them within a minute on a CPU core.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw

from hdvl.data.synthetic.style import Color
from hdvl.protocols import Box, BoxCodec, Message

COLOURS: tuple[Color, ...] = (
    (214, 40, 40),
    (30, 150, 60),
    (40, 80, 220),
    (150, 50, 170),
    (20, 20, 20),
)
MARK, FIGURE = "What is small?", "What is large?"
QUESTIONS = {MARK: "mark", FIGURE: "figure"}
"""The kind of each question."""
WHITE = 255
SHARPNESS = 4
"""Shapes are drawn this many times as large and then reduced, so that their edges are smooth."""


def _lines(*angles: float) -> Callable[[ImageDraw.ImageDraw, Box, int, int], None]:
    def draw(canvas: ImageDraw.ImageDraw, box: Box, ink: int, width: int) -> None:
        x, y, radius = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2
        for angle in angles:
            dx, dy = radius * math.cos(angle), radius * math.sin(angle)
            canvas.line((x - dx, y - dy, x + dx, y + dy), fill=ink, width=width)

    return draw


def _square(canvas: ImageDraw.ImageDraw, box: Box, ink: int, width: int) -> None:
    canvas.rectangle(box, outline=ink, width=width)


def _ring(canvas: ImageDraw.ImageDraw, box: Box, ink: int, width: int) -> None:
    canvas.ellipse(box, outline=ink, width=width)


SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, Box, int, int], None]] = {
    "square": _square,
    "ring": _ring,
    "plus": _lines(0.0, math.pi / 2),
    "cross": _lines(math.pi / 4, 3 * math.pi / 4),
    "bar": _lines(0.0),
    "pole": _lines(math.pi / 2),
}
"""Functions that draw a shape into a box with lines of a given width."""


@dataclass(frozen=True)
class MarkedPage:
    """A page with shapes of one kind; ``small`` says whether they are marks or one figure."""

    image: Image.Image
    shape: str
    small: bool

    @property
    def question(self) -> str:
        """The question about the page; its answer is ``shape``."""
        return MARK if self.small else FIGURE


def draw_marks(rng: random.Random, size: int, side: int) -> MarkedPage:
    """A page of ``size`` pixels with a mark of ``side`` pixels in each of 4 x 4 cells."""
    image, shape, ink = _blank(rng, size)
    cell = size // 4
    for number in range(16):
        x = number % 4 * cell + rng.randint(0, cell - side)
        y = number // 4 * cell + rng.randint(0, cell - side)
        _draw(image, shape, ink, (x, y), side, max(2, round(side / 5)))
    return MarkedPage(image, shape, small=True)


def draw_figure(rng: random.Random, size: int, side: int) -> MarkedPage:
    """A page of ``size`` pixels with a figure of ``side`` pixels at a random place."""
    image, shape, ink = _blank(rng, size)
    place = rng.randint(0, size - side), rng.randint(0, size - side)
    _draw(image, shape, ink, place, side, max(2, size // 64))
    return MarkedPage(image, shape, small=False)


def _blank(rng: random.Random, size: int) -> tuple[Image.Image, str, Color]:
    paper = rng.randint(225, 255)
    image = Image.new("RGB", (size, size), (paper, paper, paper))
    return image, rng.choice(list(SHAPES)), rng.choice(COLOURS)


def _draw(
    image: Image.Image, shape: str, ink: Color, place: tuple[int, int], side: int, width: int
) -> None:
    image.paste(ink, (*place, place[0] + side, place[1] + side), _mask(shape, side, width))


@lru_cache(maxsize=4096)
def _mask(shape: str, side: int, width: int) -> Image.Image:
    """The shape in white on black."""
    large = Image.new("L", (side * SHARPNESS,) * 2)
    whole = (0.0, 0.0, side * SHARPNESS - 1.0, side * SHARPNESS - 1.0)
    SHAPES[shape](ImageDraw.Draw(large), whole, WHITE, width * SHARPNESS)
    return large.reduce(SHARPNESS)


class MarkedPages:
    """Conversations about pages with shapes of one kind; the same (options, seed, index) gives the same one.

    Pages with an even number hold marks, the others a figure; the only question is which shape it is.

    Args:
        boxes: codec of boxes; not used.
        length: number of pages.
        seed: pages of different seeds are different.
        size: width and height of a page in pixels.
        mark_size: inclusive range of the size of a mark in pixels.
        figure_size: inclusive range of the size of a figure as a share of the page.
    """

    def __init__(
        self,
        *,
        boxes: BoxCodec | None = None,
        length: int = 100_000,
        seed: int = 0,
        size: int = 256,
        mark_size: Sequence[int] = (8, 12),
        figure_size: Sequence[float] = (0.6, 0.9),
    ) -> None:
        small, large = mark_size
        if not 4 <= small <= large <= size // 4:
            raise ValueError(
                f"mark_size must be a range within 4..{size // 4} for size={size}, got "
                f"{list(mark_size)}"
            )
        low, high = figure_size
        if not 0 < low <= high <= 0.95:
            raise ValueError(f"figure_size must be a range within 0..0.95, got {list(figure_size)}")
        self.length, self.seed, self.size = length, seed, size
        self.mark_size, self.figure_size = (small, large), (low, high)

    def __len__(self) -> int:
        return self.length

    def page(self, index: int) -> MarkedPage:
        """Page number ``index``."""
        rng = random.Random(f"marks/{self.seed}/{index}")
        if index % 2 == 0:
            return draw_marks(rng, self.size, rng.randint(*self.mark_size))
        return draw_figure(rng, self.size, int(rng.uniform(*self.figure_size) * self.size))

    def __getitem__(self, index: int) -> list[Message]:
        """The question about page number ``index`` and its answer."""
        if not 0 <= index < self.length:
            raise IndexError(f"conversation {index} is not in 0..{self.length - 1}")
        page = self.page(index)
        return [Message("user", page.question, (page.image,)), Message("assistant", page.shape)]


def vocabulary() -> list[str]:
    """Texts from which a tokenizer makes one token of each word of the questions and answers."""
    return [*QUESTIONS, *SHAPES] * 4
