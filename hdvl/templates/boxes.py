"""Box codecs: how a box is written in text, and found again in source pixels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hdvl.protocols import Box, GroundedBox

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_CORNERS = re.compile(rf"\s*\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)\s*")
_PICTURE = re.compile(r"\bPicture (\d+):")


class Decoded(NamedTuple):
    """The boxes found in a text, and the pieces that look like boxes but are not."""

    boxes: list[GroundedBox]
    errors: list[str]


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"picture size must be at least 1x1, got {width}x{height}")


def _check_box(box: Box) -> None:
    if not (box[0] <= box[2] and box[1] <= box[3]):
        raise ValueError(f"box must be (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, got {box}")


def _clip(value: float, top: float) -> float:
    return min(max(value, 0.0), top)


def _picture(text: str, position: int, count: int) -> int:
    """The picture that a box at ``position`` means: the last ``Picture k:`` before it, or else the last."""
    marks = [int(match[1]) for match in _PICTURE.finditer(text, 0, position)]
    return marks[-1] - 1 if marks else count - 1


def _ordered(values: Sequence[float]) -> Box:
    x0, y0, x1, y1 = values
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


@dataclass(frozen=True, kw_only=True)
class Norm1000:
    """``<ref>label</ref><box>(x1,y1),(x2,y2)</box>``, integers in thousandths of the picture.

    As Qwen-VL writes them (Bai et al., 2023, "Qwen-VL", arXiv:2308.12966): 0 <= v <= 999, and v means
    v / ``divisor`` of the width or height. The box that covers the picture ends at 999.

    >>> Norm1000().encode((536, 509, 588, 602), 1000, 1000, label="击掌")
    '<ref>击掌</ref><box>(536,509),(588,602)</box>'
    """

    divisor: int = 1000

    def __post_init__(self) -> None:
        if self.divisor not in (999, 1000):
            raise ValueError(f"divisor must be 999 or 1000, got {self.divisor}")

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tags to be made tokens of their own."""
        return "<ref>", "</ref>", "<box>", "</box>"

    def encode(
        self, box: Box, width: int, height: int, *, label: str = "", picture: int | None = None
    ) -> str:
        """``box`` in pixels of a ``width`` x ``height`` picture as text; ``picture`` counts from 0."""
        _check_size(width, height)
        _check_box(box)
        sides = (width, height, width, height)
        x0, y0, x1, y1 = (
            int(_clip(round(v * self.divisor / side), 999.0))
            for v, side in zip(box, sides, strict=True)
        )
        where = "" if picture is None else f"Picture {picture + 1}: "
        name = f"<ref>{label}</ref>" if label else ""
        return f"{where}{name}<box>({x0},{y0}),({x1},{y1})</box>"

    def decode(self, text: str, sizes: Sequence[tuple[int, int]]) -> list[GroundedBox]:
        """The well-formed boxes of ``text`` in source pixels; ``sizes`` are (width, height)."""
        return self.decode_with_errors(text, sizes).boxes

    def decode_with_errors(self, text: str, sizes: Sequence[tuple[int, int]]) -> Decoded:
        """The boxes of ``text``, and every piece that begins like a box and is none.

        Each box takes the label before it, so several boxes may follow one ``<ref>``. Numbers outside 0
        to 999 are clipped, corners in the wrong order are put right.
        """
        found, errors, label = [], [], ""
        for match in re.finditer(r"<ref>(.*?)</ref>|<box>([^<]*)(</box>)?", text, re.DOTALL):
            if match[1] is not None:
                label = match[1].strip()
                continue
            corners = _CORNERS.fullmatch(match[2]) if match[3] else None
            picture = _picture(text, match.start(), len(sizes))
            if corners is None or not 0 <= picture < len(sizes):
                errors.append(match[0])
                continue
            width, height = sizes[picture]
            sides = (width, height, width, height)
            values = [
                _clip(float(v), 999.0) * side / self.divisor
                for v, side in zip(corners.groups(), sides, strict=True)
            ]
            found.append(GroundedBox(label=label, box=_ordered(values), image=picture))
        return Decoded(found, errors)
