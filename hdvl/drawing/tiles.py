"""Tiles drawn on images, on the canvas that the model gets, and side by side."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from hdvl.drawing.boxes import COLOURS, contrast, overlap
from hdvl.drawing.fonts import Colour, default_font, label_size, write_label
from hdvl.geometry import Box, Rect, Size, TilePlan

PAPER: Colour = (246, 246, 244)
INK: Colour = (60, 60, 60)
GAP = 16
UNIFORM = 8.0
"""The standard deviation below which pixels of 0 to 255 show nothing that a label would hide."""
SMALLEST_CANVAS = 640
"""Canvases with fewer pixels on their longer side are drawn enlarged, each pixel as a square."""


def draw_tiles(image: Image.Image, plan: TilePlan) -> Image.Image:
    """Return a copy of ``image`` with the outline and the number of every tile but the thumbnail.

    ``image`` may be a proportionally scaled copy. The outline of every second tile is drawn a line width
    further inside, so that the outlines of overlapping tiles can be distinguished.

    Raises:
        ValueError: ``image`` is not in the proportions of ``plan``.
    """
    scale_x, scale_y = image.width / plan.width, image.height / plan.height
    error_x, error_y = image.width - plan.width * scale_y, image.height - plan.height * scale_x
    if abs(error_x) > 1 and abs(error_y) > 1:
        raise ValueError(
            f"plan must belong to the image of {image.width}x{image.height}, it is for "
            f"{plan.width}x{plan.height}"
        )
    drawn = image.convert("RGB")
    if drawn is image:
        drawn = image.copy()
    boxes = [
        (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
        for box in plan.boxes
    ]
    _outline(drawn, plan, boxes)
    return drawn


def _outline(drawn: Image.Image, plan: TilePlan, boxes: Sequence[Box]) -> None:
    """Draw the outline and the number of every window; ``boxes`` are those of all views, in ``drawn``."""
    pen, grey, labels = ImageDraw.Draw(drawn), drawn.convert("L"), list[Box]()
    sides = [min(box[2] - box[0], box[3] - box[1]) for box in boxes[plan.window_slice]]
    side = min([*sides, *drawn.size])
    width = min(4, max(1, round(side / 90), round(min(drawn.size) / 400)))
    font = default_font(min(28, max(10, round(side / 9))))
    for number, (view, box) in enumerate(zip(plan.views, boxes, strict=True)):
        if view.row is None or view.col is None:
            continue
        inset = width * ((view.row + view.col) % 2)
        x0, y0 = max(0.0, box[0]) + inset, max(0.0, box[1]) + inset
        x1 = max(x0, min(box[2], float(drawn.width)) - 1 - inset)
        y1 = max(y0, min(box[3], float(drawn.height)) - 1 - inset)
        colour = COLOURS[(view.row * 3 + view.col) % len(COLOURS)]
        pen.rectangle((x0, y0, x1, y1), outline=colour, width=width)
        inside = (x0 + width, y0 + width, x1 - width, y1 - width)
        size = label_size(str(number), font)
        at = _uniform_edge(grey, inside, size, labels)
        labels.append((*at, at[0] + size[0], at[1] + size[1]))
        write_label(pen, str(number), at, font, colour)


def _uniform_edge(
    grey: Image.Image, inside: Box, size: Size, labels: Sequence[Box]
) -> tuple[float, float]:
    """Return where a label of ``size`` hides least of what is drawn inside a tile, and no other label.

    It is the top left corner if that is uniform, otherwise the place with the least contrast on the first
    half of the upper or the left side.
    """
    x0, y0, x1, y1 = inside
    (width, height), corner = size, (x0, y0)
    across = range(1, 1 + int((x1 - x0) / 2 // width))
    down = range(1, 1 + int((y1 - y0) / 2 // height))
    places = [(x0 + step * width, y0) for step in across]
    places += [(x0, y0 + step * height) for step in down]
    found = {}
    for x, y in [corner, *places]:
        place = (x, y, x + width, y + height)
        hidden = any(overlap(place, label) for label in labels)
        found[x, y] = math.inf if hidden else contrast(grey, place)
    best = min(found, key=lambda place: found[place])
    return corner if found[corner] < max(UNIFORM, 2 * found[best]) else best


def canvas_scale(plan: TilePlan, draw_size: int) -> float:
    """Return the scale at which the canvas is drawn.

    The longer side gets at most ``draw_size`` pixels; up to four times as many if the shorter side would
    have fewer than 120. Small canvases are enlarged.
    """
    longer, shorter = max(plan.canvas), min(plan.canvas)
    scale = min(draw_size, max(longer, SMALLEST_CANVAS)) / longer
    return max(scale, min(120 / shorter, 4 * draw_size / longer))


def draw_canvas(
    image: Image.Image, plan: TilePlan, *, padding: Colour = (0, 0, 0), draw_size: int = 1600
) -> Image.Image:
    """Draw an image as the model receives it: the canvas with its tiles, and the thumbnail next to it.

    Padding, distortion and scaling are those of the tiles. Parts of the canvas without a window are dimmed.

    Args:
        image: the upright image in RGB; it may have been scaled.
        plan: how the image is cut.
        padding: the colour of the padding.
        draw_size: the length of the longer side of the canvas in the drawing, in pixels; for very long
            canvases see :func:`canvas_scale`.
    """
    scale = canvas_scale(plan, draw_size)
    frame = _framed(image, plan, padding)
    canvas = _at_scale(frame, plan.canvas, plan.content, scale, padding)
    lines = [f"canvas {plan.canvas[0]} x {plan.canvas[1]}, drawn at {scale:.0%}"]
    panels = [canvas]
    windows = [
        (box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale)
        for box in _window_boxes(plan)
    ]
    if plan.windows:
        _dim_outside(canvas, windows)
        boxes: list[Box] = list(windows)
        if plan.thumbnail_index is not None:
            boxes.insert(plan.thumbnail_index, (0.0, 0.0, 0.0, 0.0))
        _outline(canvas, plan, boxes)
    if plan.thumbnail_index is not None:
        thumbnail_size = plan.sizes[plan.thumbnail_index]
        # At most half as wide and as high as the canvas, but at least 160 pixels.
        thumbnail_scale = max(160, min(max(thumbnail_size), 0.5 * max(canvas.size))) / max(
            thumbnail_size
        )
        place = plan.thumbnail_content or (0, 0, *thumbnail_size)
        source = frame
        if plan.thumbnail_source == "canvas":
            smaller = min(1.0, max(frame.size) / max(plan.canvas))
            source = _resized(frame, _extent(_rect(plan.content, smaller)))
        panels.append(_at_scale(source, thumbnail_size, place, thumbnail_scale, padding))
        lines.append(
            f"thumbnail {thumbnail_size[0]} x {thumbnail_size[1]}, drawn at {thumbnail_scale:.0%}"
        )
    return _beside(panels, lines)


def contact_sheet(
    rows: Sequence[Sequence[tuple[Image.Image, str]]], *, tile_side: int = 224
) -> Image.Image:
    """Lay out tiles side by side.

    Args:
        rows: the tiles of each row with their names, which are written below. Tiles may differ in size.
        tile_side: the longer side of the largest tile in the drawing, in pixels.
    """
    scale = tile_side / max((max(tile.size) for row in rows for tile, _ in row), default=1)
    font, line, gap = default_font(13), 18, GAP // 2
    shown = [
        [(_resized(tile, _scaled_size(tile.size, scale)), name) for tile, name in row]
        for row in rows
    ]
    wide = max((tile.width for row in shown for tile, _ in row), default=1) + gap
    heights = [max((tile.height for tile, _ in row), default=1) + line + gap for row in shown]
    width = gap + wide * max(map(len, shown), default=1)
    sheet = Image.new("RGB", (width, gap + sum(heights)), PAPER)
    pen, y = ImageDraw.Draw(sheet), gap
    for row, height in zip(shown, heights, strict=True):
        for col, (tile, name) in enumerate(row):
            x = gap + col * wide
            sheet.paste(tile, (x, y))
            pen.rectangle((x - 1, y - 1, x + tile.width, y + tile.height), outline=(190, 190, 190))
            pen.text((x, y + tile.height + 2), name, font=font, fill=INK)
        y += height
    return sheet


def view_names(plan: TilePlan) -> list[str]:
    """Return a short name of each view: its number, and its row and column."""
    return [
        f"{number}  thumbnail" if view.is_thumbnail else f"{number}  row {view.row} col {view.col}"
        for number, view in enumerate(plan.views)
    ]


def _window_boxes(plan: TilePlan) -> list[Box]:
    sizes = plan.sizes[plan.window_slice]
    return [
        (float(x), float(y), float(x + width), float(y + height))
        for (x, y), (width, height) in zip(plan.windows, sizes, strict=True)
    ]


def _framed(image: Image.Image, plan: TilePlan, padding: Colour) -> Image.Image:
    """Return the frame of the plan, cropped out of ``image`` and padded outside of it."""
    if plan.frame is None:
        return image
    scale_x, scale_y = image.width / plan.width, image.height / plan.height
    x0, y0, x1, y1 = plan.frame
    rect = (round(x0 * scale_x), round(y0 * scale_y), round(x1 * scale_x), round(y1 * scale_y))
    size = (max(1, rect[2] - rect[0]), max(1, rect[3] - rect[1]))
    framed = Image.new("RGB", size, padding)
    framed.paste(image, (-rect[0], -rect[1]))
    return framed


def _at_scale(
    source: Image.Image, size: Size, place: Rect, scale: float, padding: Colour
) -> Image.Image:
    """Return an image of ``size`` with ``source`` in the rectangle ``place``, drawn at ``scale``.

    For a scale above 1 it is resampled at ``size``, as by the tiler, and then enlarged.
    """
    first = min(1.0, scale)
    drawn = Image.new("RGB", _scaled_size(size, first), padding)
    place = _rect(place, first)
    drawn.paste(source.convert("RGB").resize(_extent(place), Image.Resampling.BICUBIC), place[:2])
    return _resized(drawn, _scaled_size(size, scale))


def _resized(image: Image.Image, size: Size) -> Image.Image:
    """Return ``image`` resized; if it is enlarged, each pixel becomes a square."""
    if size == image.size:
        return image.convert("RGB")
    enlarged = size[0] >= image.width and size[1] >= image.height
    kind = Image.Resampling.NEAREST if enlarged else Image.Resampling.BICUBIC
    return image.convert("RGB").resize(size, kind)


def _dim_outside(canvas: Image.Image, windows: Sequence[Box]) -> None:
    """Dim the parts of the canvas without a window, such as blank windows that were left out."""
    shown = Image.new("L", canvas.size, 0)
    pen = ImageDraw.Draw(shown)
    for x0, y0, x1, y1 in windows:
        pen.rectangle((round(x0), round(y0), round(x1) - 1, round(y1) - 1), fill=255)
    grey = Image.new("RGB", canvas.size, (128, 128, 128))
    canvas.paste(Image.composite(canvas, Image.blend(canvas, grey, 0.7), shown))


def _beside(panels: Sequence[Image.Image], lines: Sequence[str]) -> Image.Image:
    """Lay out panels with a line of text below each, one below the other if the first is very wide."""
    font, line = default_font(15), 22
    wide = [
        max(panel.width, round(font.getlength(text)))
        for panel, text in zip(panels, lines, strict=True)
    ]
    below = panels[0].width > 2 * panels[0].height
    if below:
        width = GAP + max(wide) + GAP
        height = GAP + sum(panel.height + line + GAP for panel in panels)
    else:
        width = GAP + sum(one + GAP for one in wide)
        height = GAP + max(panel.height for panel in panels) + line + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, x, y = ImageDraw.Draw(sheet), GAP, GAP
    for panel, text, one in zip(panels, lines, wide, strict=True):
        sheet.paste(panel, (x, y))
        pen.rectangle((x - 1, y - 1, x + panel.width, y + panel.height), outline=(170, 170, 170))
        pen.text((x, y + panel.height + 4), text, font=font, fill=INK)
        x, y = (x, y + panel.height + line + GAP) if below else (x + one + GAP, y)
    return sheet


def _scaled_size(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _rect(rect: Rect, scale: float) -> Rect:
    x0, y0, x1, y1 = (round(side * scale) for side in rect)
    return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)


def _extent(rect: Rect) -> Size:
    return rect[2] - rect[0], rect[3] - rect[1]
