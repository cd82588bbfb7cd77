"""Drawing of boxes with labels on images, with magnified insets of small boxes."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageStat

from hdvl.conversation import GroundedBox
from hdvl.drawing.fonts import Colour, default_font, font_for, label_size, write_label
from hdvl.geometry import Box, Size

COLOURS: tuple[Colour, ...] = (
    (214, 39, 40),
    (31, 119, 180),
    (44, 160, 44),
    (148, 103, 189),
    (255, 127, 14),
    (23, 160, 170),
    (227, 60, 160),
)
SMALL = 1 / 30
"""A box is small if its shorter side is at most this share of the image's shorter side."""

MIN_IMAGE_SIDE = 200
"""Images whose shorter side has fewer pixels get no insets, because there is no room for them."""

MAX_INSETS = 3


def draw_boxes(
    image: Image.Image,
    boxes: Sequence[GroundedBox],
    *,
    colours: Sequence[Colour] = COLOURS,
    insets: bool = False,
    gap: int = 1,
) -> Image.Image:
    """Return a copy of ``image`` with a frame around each box and its label next to it.

    Equal labels share a colour. Quadrilaterals are outlined along their edges. Lines and letters grow with
    the image. Labels that no installed font can write are numbered instead, and a warning says which.

    Args:
        image: the image that the boxes belong to.
        boxes: boxes in pixels of the image.
        colours: the colours of the labels, one after another.
        insets: whether to draw magnified insets of small boxes, where the image has the least contrast.
        gap: the distance between a box and its frame, in widths of its lines.
    """
    drawn = image.convert("RGB")
    if drawn is image:
        drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    width = max(2, round(min(drawn.size) / 350))
    labels = list(dict.fromkeys(box.label for box in boxes))
    frames = [_frame(box.box, width, drawn.size, gap) for box in boxes]
    occupied = list(frames)
    if insets and min(image.size) >= MIN_IMAGE_SIDE:
        small = [number for number, box in enumerate(boxes) if _is_small(box.box, image.size)]
        for number in small[:MAX_INSETS]:
            colour = colours[labels.index(boxes[number].label) % len(colours)]
            inset = _inset(image, boxes[number].box, frames[number], occupied)
            if inset is not None:
                _draw_inset(drawn, inset, frames[number], width, colour)
                occupied.append(inset.place)
    for box, frame in zip(boxes, frames, strict=True):
        number = labels.index(box.label)
        colour = colours[number % len(colours)]
        if box.points:
            pen.polygon(box.points, outline=colour, width=width)
        else:
            # Pillow includes the last pixel.
            pen.rectangle((*frame[:2], frame[2] - 1, frame[3] - 1), outline=colour, width=width)
    for box, frame in zip(boxes, frames, strict=True):
        if box.label:
            number = labels.index(box.label)
            occupied.append(_label(drawn, box.label, number, frame, occupied, colours))
    return drawn


def _frame(box: Box, width: int, size: Size, gap: int) -> Box:
    """Return the outer edge of the frame around ``box``, with a gap of some line widths between them."""
    x0, y0, x1, y1 = box
    away = (gap + 1) * width
    left = min(max(0.0, x0 - away), size[0] - 1.0)
    top = min(max(0.0, y0 - away), size[1] - 1.0)
    right = min(float(size[0]), max(x0 + 1, x1) + away)
    bottom = min(float(size[1]), max(y0 + 1, y1) + away)
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _is_small(box: Box, size: Size) -> bool:
    return min(box[2] - box[0], box[3] - box[1]) <= SMALL * min(size)


@dataclass(frozen=True)
class _Inset:
    """A magnified part of an image, and the place where it is drawn."""

    pixels: Image.Image
    place: Box


def _inset(image: Image.Image, box: Box, frame: Box, occupied: Sequence[Box]) -> _Inset | None:
    """Return the magnified surroundings of ``box``, at a place that touches nothing in ``occupied``."""
    height = max(4.0, box[3] - box[1])
    margin = 0.6 * height
    part = (
        max(0, round(box[0] - margin)),
        max(0, round(box[1] - margin)),
        min(image.width, round(box[2] + margin)),
        min(image.height, round(box[3] + margin)),
    )
    wide, high = part[2] - part[0], part[3] - part[1]
    if wide < 1 or high < 1:  # the box lies outside of the image
        return None
    factor = min(6.0, 0.42 * image.width / wide, 0.22 * image.height / high)
    if factor < 1.6:
        return None
    size = (round(wide * factor), round(high * factor))
    place = _uniform_place(image, size, occupied, near=frame)
    if place is None:
        return None
    shown = image.crop(part).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return _Inset(shown, place)


def _uniform_place(
    image: Image.Image, size: Size, occupied: Sequence[Box], near: Box
) -> Box | None:
    """Return the place of ``size`` with the least contrast; among similar ones the nearest to ``near``."""
    margin = round(min(image.size) / 40)
    room = (image.width - size[0] - 2 * margin, image.height - size[1] - 2 * margin)
    if min(room) < 0:
        return None
    grey, best = image.convert("L"), list[tuple[float, Box]]()
    for row in range(9):
        for col in range(9):
            x, y = margin + room[0] * col / 8, margin + room[1] * row / 8
            place = (x, y, x + size[0], y + size[1])
            if any(overlap(place, other, margin) for other in occupied):
                continue
            spread = contrast(grey, place)
            distance = abs(x + size[0] / 2 - near[0]) + abs(y + size[1] / 2 - near[1])
            best.append((round(spread) + distance / sum(image.size), place))
    return min(best)[1] if best else None


def contrast(grey: Image.Image, place: Box) -> float:
    """Return the standard deviation of the pixels at ``place``, which is 0 for a uniform area."""
    x0, y0, x1, y1 = map(round, place)
    return ImageStat.Stat(grey.crop((x0, y0, x1, y1))).stddev[0]


def overlap(one: Box, other: Box, margin: float = 0.0) -> bool:
    return (
        one[0] < other[2] + margin
        and other[0] < one[2] + margin
        and one[1] < other[3] + margin
        and other[1] < one[3] + margin
    )


def _draw_inset(drawn: Image.Image, inset: _Inset, frame: Box, width: int, colour: Colour) -> None:
    """Paste the inset in a frame of its own, and join the two frames by a line."""
    pen = ImageDraw.Draw(drawn)
    x0, y0, x1, y1 = map(round, inset.place)
    # The line joins the middles of the two sides that face each other.
    ends = []
    for one, other in ((frame, inset.place), (inset.place, frame)):
        x, y = (one[0] + one[2]) / 2, (one[1] + one[3]) / 2
        if other[1] >= one[3] or other[3] <= one[1]:
            y = one[3] if other[1] >= one[3] else one[1]
        else:
            x = one[2] if other[0] >= one[2] else one[0]
        ends.append((x, y))
    pen.line(ends, fill=colour, width=max(1, width // 2))
    drawn.paste(inset.pixels, (x0, y0))
    pen.rectangle(
        (x0 - width, y0 - width, x1 + width - 1, y1 + width - 1), outline=colour, width=width
    )


def _label(
    drawn: Image.Image,
    label: str,
    number: int,
    frame: Box,
    occupied: Sequence[Box],
    colours: Sequence[Colour],
) -> Box:
    """Write the label next to the frame where it covers least of the image, and return its rectangle."""
    size = max(11, round(min(drawn.size) / 55))
    font, text = font_for(label, size), label
    if font is None:
        warnings.warn(
            f"no installed font can write the label {label!r}, it is drawn as #{number + 1}; "
            "install one: pip install mplfonts",
            stacklevel=3,
        )
        font, text = default_font(size), f"#{number + 1}"
    width, height = label_size(text, font)
    middle, left = (frame[1] + frame[3] - height) / 2, min(frame[0], drawn.width - width)
    places = [
        (frame[2], middle),
        (frame[0] - width, middle),
        (left, frame[1] - height),
        (left, frame[3]),
    ]
    grey, best = drawn.convert("L"), list[tuple[bool, int, tuple[float, float]]]()
    for x, y in places:
        place = (x, y, x + width, y + height)
        if x < 0 or y < 0 or place[2] > drawn.width or place[3] > drawn.height:
            continue
        spread = contrast(grey, place)
        covers = any(overlap(place, other) for other in occupied if other != frame)
        best.append((covers, round(spread / 8), (x, y)))
    # If there is no room on any side, the label is written inside the frame.
    inside = (max(0.0, min(frame[0], drawn.width - width)), max(0.0, frame[1]))
    x, y = min(best, key=lambda found: found[:2])[2] if best else inside
    write_label(ImageDraw.Draw(drawn), text, (x, y), font, colours[number % len(colours)])
    return x, y, x + width, y + height
