"""Answers of a model, with their images and statistics."""

import html
import re
from dataclasses import dataclass
from typing import Any

from PIL import Image

from hdvl.drawing import draw_boxes, draw_tiles
from hdvl.html import embedded
from hdvl.images import read_image
from hdvl.inference.confidence import Confidence
from hdvl.protocols import GroundedBox, Message, TilePlan

_TAGS = re.compile(r"<ref>(?P<label>[^<]*)</ref>|<(?P<tag>box|quad)>(?:[^<]|<loc_\d+>)*</(?P=tag)>")
_SHOWN_IMAGES = 4
"""Most images that an answer shows in a notebook."""


@dataclass(frozen=True)
class Numbers:
    """Statistics of an answer.

    Attributes:
        tiles: tiles of all images that the model read, thumbnails included.
        visual_tokens: tokens of all images.
        prompt_tokens: ids of the prompt, those of the images included.
        new_tokens: ids that the model generated, its end marker included.
        seconds: wall clock from the question, when its images were read, to the last id.
        cached_tokens: ids of the prompt that were known from earlier prompts.
        blank_tiles: blank windows that the tiler left out (``skip_blank``).
        unselected_tiles: windows that were left out by ``select``.
    """

    tiles: int
    visual_tokens: int
    prompt_tokens: int
    new_tokens: int
    seconds: float
    cached_tokens: int = 0
    blank_tiles: int = 0
    unselected_tiles: int = 0


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: the text of the answer, without end marker and control tokens.
        boxes: boxes found in ``text``, in pixels of image number ``box.image``.
        malformed: the pieces of ``text`` that begin like boxes but are not.
        history: the whole conversation with this answer, for the next ``chat``.
        images: the images that the model read, as they were given, in order of appearance; those of turns
            that a template's ``window`` dropped are not included.
        plans: how each was cut.
        numbers: numbers of tiles and tokens, and times.
        exif: whether the images were rotated by their EXIF orientation.
        unfamiliar: numbers of the images that are unlike those that the model was trained on. Empty if
            the model's folder does not say what these look like.
        confidence: how probable it is that the answer is right, calibrated if the model's folder holds a
            calibration; see :class:`~hdvl.inference.confidence.Confidence`. ``chat`` and ``stream`` give
            it, ``generate`` where it is called with ``logprobs=0``; otherwise it is ``None``.
        finish_reason: ``stop``, or ``length`` if ``max_new_tokens`` cut the answer off.
    """

    text: str
    boxes: tuple[GroundedBox, ...]
    history: tuple[Message, ...]
    images: tuple[Any, ...]
    plans: tuple[TilePlan, ...]
    numbers: Numbers
    exif: bool = True
    malformed: tuple[str, ...] = ()
    finish_reason: str = "stop"
    unfamiliar: tuple[int, ...] = ()
    confidence: Confidence | None = None

    @property
    def readable(self) -> str:
        """The text with boxes written as label and corners in pixels: ``total (907, 488, 953, 498)``.

        A text with boxes outside of tags, or with a malformed tag, is returned unchanged.
        """
        tags = [match for match in _TAGS.finditer(self.text) if match["tag"]]
        if self.malformed or len(tags) != len(self.boxes):
            return self.text
        boxes = iter(self.boxes)

        def written(match: re.Match[str]) -> str:
            return f" {corners(next(boxes))}" if match["tag"] else match["label"].strip()

        return " ".join(_TAGS.sub(written, self.text).split(" ")).strip()

    def draw(self, image_index: int | None = None, *, insets: bool = True) -> Image.Image:
        """Image number ``image_index`` with the boxes found in it, in its own size.

        Args:
            image_index: ``None`` is the image of the first box, or the first image where there is no box.
            insets: whether to show small boxes magnified.
        """
        if image_index is None:
            image_index = self.boxes[0].image if self.boxes else 0
        found = [box for box in self.boxes if box.image == image_index]
        return draw_boxes(self.image(image_index), found, insets=insets)

    def _repr_html_(self) -> str:
        """The text, the images with their boxes, and the statistics of the answer, for notebooks."""
        n = self.numbers
        shown = dict.fromkeys([*(box.image for box in self.boxes), *range(len(self.images))])
        figures = [
            f'<img style="max-width: 100%" alt="image {number + 1}" '
            f'src="{embedded(self.draw(number))}">'
            for number in list(shown)[:_SHOWN_IMAGES]
            if 0 <= number < len(self.images)
        ]
        return (
            f"<p><b>{html.escape(self.readable)}</b></p>{''.join(figures)}"
            f"<p><small>{n.tiles} tiles, {n.prompt_tokens} tokens read ({n.visual_tokens} visual), "
            f"{n.new_tokens} written, {n.seconds:.2f} s</small></p>"
        )

    def draw_tiles(self, image_index: int = 0) -> Image.Image:
        """Image number ``image_index`` with the edges of its tiles."""
        return draw_tiles(self.image(image_index), self.plans[image_index])

    def image(self, image_index: int = 0) -> Image.Image:
        """Image number ``image_index``, rotated upright and in RGB; boxes are in its pixels."""
        if not 0 <= image_index < len(self.images):
            raise ValueError(
                f"image_index must be in 0..{len(self.images) - 1}, got {image_index}; the "
                f"conversation has {len(self.images)} images"
            )
        return read_image(self.images[image_index], exif=self.exif)


def corners(box: GroundedBox) -> str:
    """The corners of a box in whole pixels: ``(907, 488, 953, 498)``."""
    return f"({', '.join(f'{value:.0f}' for value in box.box)})"
