"""Overlap of boxes: RefCOCO, RefCOCO+ and RefCOCOg as Qwen-VL scores them, and GRIT refexp.

RefCOCO counts an overlap of 0.5 or more, GRIT one of more than 0.5. Boxes are x1, y1, x2, y2.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Box = Sequence[float]
CORNERS = re.compile(r"\((.*?)\),\((.*?)\)")
INTERNVL_CORNERS = re.compile(r"\[+(.*?),(.*?),(.*?),(.*?)\]")
PLAIN_NUMBERS = re.compile(r"\[" + ",".join([r"\s*(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]")
MAX_SUM_OF_SHARES = 4  # of four coordinates in 0..1
GRID = 999  # the largest coordinate of Qwen-VL's grid
MIN_IOU = 0.5


@dataclass(frozen=True)
class Overlap:
    """The predicted box in pixels, its overlap with the true one, and whether the overlap is large enough."""

    box: tuple[float, ...]
    iou: float
    correct: bool


def parse_corners(answer: str) -> tuple[float, float, float, float]:
    """The first "(x1,y1),(x2,y2)" of an answer; four zeros if there is none or it is malformed."""
    found = CORNERS.search(answer)
    if found is None:
        return (0.0, 0.0, 0.0, 0.0)
    try:
        x1, y1 = (float(part) for part in found[1].split(","))
        x2, y2 = (float(part) for part in found[2].split(","))
    except ValueError:
        return (0.0, 0.0, 0.0, 0.0)
    return (x1, y1, x2, y2)


def internvl_box(answer: str, *, width: int, height: int) -> list[float] | None:
    """The first "[x1, y1, x2, y2]" of an answer in pixels, in single precision; ``None`` if there is none.

    InternVL's script divides the coordinates by 1000 if their sum is 4 or more, and takes them for shares of
    the sides of the image otherwise.
    """
    found = INTERNVL_CORNERS.search(answer)
    if found is None:
        return None
    try:
        box = np.array([float(part) for part in found.groups()], np.float32)
    except ValueError:
        return None
    with np.errstate(all="ignore"):
        if box.sum() >= MAX_SUM_OF_SHARES:
            box /= np.float32(1000)
        pixels: list[float] = (box * np.array([width, height] * 2, np.float32)).tolist()
    return pixels


def shares_box(answer: str) -> tuple[float, ...]:
    """The first "[x1, y1, x2, y2]" of plain numbers in an answer, as in lmms-eval; else four zeros."""
    found = PLAIN_NUMBERS.search(answer)
    return tuple(float(part) for part in found.groups()) if found else (0.0, 0.0, 0.0, 0.0)


def plain_iou(first: Box, second: Box) -> float:
    """Intersection over union in double precision; boxes with swapped corners may have a negative area."""
    low = [max(one, other) for one, other in zip(first[:2], second[:2], strict=True)]
    high = [min(one, other) for one, other in zip(first[2:], second[2:], strict=True)]
    inside = max(0.0, high[0] - low[0]) * max(0.0, high[1] - low[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - inside
    return inside / union if union else 0.0


def holds_centre(box: Box, other: Box) -> bool:
    """Whether the centre of ``other`` is in ``box``."""
    x, y = (other[0] + other[2]) / 2, (other[1] + other[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def area(box: npt.NDArray[np.float32]) -> Any:
    """Width times height, negative when one pair of corners is swapped."""
    return (box[2] - box[0]) * (box[3] - box[1])


def box_iou(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """Intersection over union in single precision, as torchvision computes it."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    width, height = np.maximum(high - low, np.float32(0))
    inside = width * height
    return float(inside / (area(first) + area(second) - inside))


def refcoco_overlap(answer: str, box: Box, *, width: int, height: int) -> Overlap:
    """Score an answer on the 0 to 999 grid against ``box`` in pixels of the original image."""
    with np.errstate(
        all="ignore"
    ):  # for a box without area the overlap is NaN, and the comparison is false
        grid = np.asarray(parse_corners(answer), dtype=np.float32) / np.float32(GRID)
        given = grid * np.asarray([width, height, width, height], dtype=np.float32)
        iou = box_iou(given, np.asarray(box, dtype=np.float32))
    return Overlap(tuple(given.tolist()), iou, iou >= MIN_IOU)


def grit_area(box: Box) -> float:
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else 0.0


def grit_iou(first: Box, second: Box) -> float:
    """Intersection over union with 1e-6 added to the denominator; a box with swapped corners has no area."""
    low = [max(one, other) for one, other in zip(first[:2], second[:2], strict=True)]
    high = [min(one, other) for one, other in zip(first[2:], second[2:], strict=True)]
    inside = grit_area([*low, *high])
    return inside / (grit_area(first) + grit_area(second) - inside + 1e-6)


def grit_refexp(predicted: Sequence[Box], true: Sequence[Box]) -> float:
    """1 when the first predicted box overlaps the first true one by more than half, else 0."""
    return float(bool(predicted) and grit_iou(predicted[0], true[0]) > MIN_IOU)
