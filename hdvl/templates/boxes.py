"""Box codecs, which write a box as text and read it back in pixels of the source image."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hdvl.protocols import Box, Decoded, GroundedBox

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_POINT = rf"\s*\({_NUMBER},{_NUMBER}\)\s*"
_CORNERS = re.compile(f"{_POINT},{_POINT}")
_QUAD = re.compile(",".join([_POINT] * 4))
_FOUR = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}")
_LIST = rf"\s*\[{_FOUR.pattern}\]\s*"
_LISTS = re.compile(rf"\s*\[{_LIST}(?:,{_LIST})*\]\s*|{_LIST}")
_TAGGED = re.compile(
    r"<ref>(?P<label>(?:(?!<ref>|<box>|<quad>).)*?)</ref>|(?P<stray><ref>)"
    r"|<(?P<tag>box|quad)>(?P<inside>(?:[^<]|<loc_\d+>)*)(?P<end></(?P=tag)>)?",
    re.DOTALL,
)
_LOCATIONS = re.compile(r"<loc_(\d{1,3})>" * 4)
# Text like "[12, 34": numbers with at least one comma. "[1]" and "[see there]" do not match.
_BRACKETED = re.compile(r"\[(?P<box>[-\d.\s]*,[-\d.,\s]*)(?P<end>\])?")
_IMAGE = re.compile(r"\b(?:Picture |Image-)(\d+):")


def _check(box: Box, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"image size must be at least 1x1, got {width}x{height}")
    if not (box[0] <= box[2] and box[1] <= box[3]):
        raise ValueError(f"box must be (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, got {box}")


def _clip(value: float, top: float) -> float:
    return min(max(value, 0.0), top)


def _image(text: str, position: int, count: int) -> int:
    """The index of the image of a box at ``position``: the last one numbered before it, else the last one."""
    marks = [int(match[1]) for match in _IMAGE.finditer(text, 0, position)]
    return marks[-1] - 1 if marks else count - 1


def _where(image: int | None) -> str:
    return "" if image is None else f"Picture {image + 1}: "


def _to_pixels(values: Sequence[str], scale: float, width: int, height: int) -> Box:
    """Convert written numbers to pixels, clipped to the image; ``scale`` is the number for the whole side."""
    x0, y0, x1, y1 = (
        _clip(float(value) * side / scale, side)
        for value, side in zip(values, (width, height, width, height), strict=True)
    )
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


LOCATIONS = tuple(f"<loc_{value}>" for value in range(1000))
"""The tokens of the form ``locations``."""


@dataclass(frozen=True, kw_only=True)
class Norm1000:
    """``<ref>label</ref><box>(x1,y1),(x2,y2)</box>`` with whole numbers in thousandths of the image.

    This is the format of Qwen-VL (Bai et al., 2023, "Qwen-VL", arXiv:2308.12966): 0 <= v <= 999, and v means
    v / ``divisor`` of the width or height. Its drawing code divides by 1000, so that a box ends at 0.999 at
    most; its published scores divide by 999. InternVL-Chat writes ``<box>[[x1, y1, x2, y2]]</box>``. With
    ``locations`` each number is one token, ``<loc_0>`` to ``<loc_999>``, as in Florence-2 (Xiao et al.,
    2024, arXiv:2311.06242), so that a box has four tokens with embeddings of their own.

    Attributes:
        divisor: 1000 or 999.
        form: the format in which boxes are written: ``corners`` as Qwen-VL, ``lists`` as InternVL-Chat, or
            ``locations``. All three are read.
        quads: whether ``<quad>`` and ``</quad>`` are tokens too. Quadrilaterals are read in any case.

    >>> Norm1000().encode((536, 509, 588, 602), 1000, 1000, label="击掌")
    '<ref>击掌</ref><box>(536,509),(588,602)</box>'
    """

    divisor: int = 1000
    form: Literal["corners", "lists", "locations"] = "corners"
    quads: bool = False

    def __post_init__(self) -> None:
        if self.divisor not in (999, 1000):
            raise ValueError(f"divisor must be 999 or 1000, got {self.divisor}")
        if self.form not in ("corners", "lists", "locations"):
            raise ValueError(f"form must be corners, lists or locations, got {self.form!r}")

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tags and locations that must be tokens of their own."""
        quads = ("<quad>", "</quad>") if self.quads else ()
        locations = LOCATIONS if self.form == "locations" else ()
        return "<ref>", "</ref>", "<box>", "</box>", *quads, *locations

    def encode(
        self, box: Box, width: int, height: int, *, label: str = "", image: int | None = None
    ) -> str:
        """``box`` in pixels of an image as text; ``image`` is an index from 0, which is written from 1."""
        _check(box, width, height)
        values = [
            int(_clip(round(v * self.divisor / side), 999.0))
            for v, side in zip(box, (width, height, width, height), strict=True)
        ]
        name = f"<ref>{label}</ref>" if label else ""
        return f"{_where(image)}{name}{self.write(values)}"

    def write(self, values: Sequence[int]) -> str:
        """The tag of one box whose values x1, y1, x2, y2 are in thousandths."""
        x0, y0, x1, y1 = values
        forms = {
            "corners": f"({x0},{y0}),({x1},{y1})",
            "lists": f"[[{x0}, {y0}, {x1}, {y1}]]",
            "locations": f"<loc_{x0}><loc_{y0}><loc_{x1}><loc_{y1}>",
        }
        return f"<box>{forms[self.form]}</box>"

    def decode(self, text: str, sizes: Sequence[tuple[int, int]]) -> list[GroundedBox]:
        """The well-formed boxes of ``text`` in source pixels; ``sizes`` are (width, height)."""
        return self.decode_with_errors(text, sizes).boxes

    def decode_with_errors(self, text: str, sizes: Sequence[tuple[int, int]]) -> Decoded:
        """The boxes of ``text``, and every piece that starts like a box but is malformed.

        A box has the label of the last ``<ref>`` before it, which several boxes may share. It belongs to
        the image that the last ``Picture k:`` before it names, else to the last image. Numbers outside the
        image are clipped, and corners in the wrong order are swapped. ``<quad>`` gives its four points and
        the box around them.
        """
        found, errors, label = list[GroundedBox](), list[str](), ""
        for match in _TAGGED.finditer(text):
            if match["tag"] is None:
                label = (match["label"] or "").strip()
                errors += [match["stray"]] if match["stray"] else []
                continue
            image = _image(text, match.start(), len(sizes))
            shapes = _shapes(match["tag"], match["inside"]) if match["end"] else []
            if not shapes or not 0 <= image < len(sizes):
                errors.append(match[0])
                continue
            found += [self._grounded(label, image, shape, *sizes[image]) for shape in shapes]
        return Decoded(found, errors)

    def _grounded(
        self, label: str, image: int, values: Sequence[str], width: int, height: int
    ) -> GroundedBox:
        """Two corners, or the four points of a quadrilateral, in source pixels."""
        if len(values) == 4:
            box = _to_pixels(values, self.divisor, width, height)
            return GroundedBox(label=label, box=box, image=image)
        xs = [_clip(float(v) * width / self.divisor, width) for v in values[::2]]
        ys = [_clip(float(v) * height / self.divisor, height) for v in values[1::2]]
        return GroundedBox(
            label=label,
            box=(min(xs), min(ys), max(xs), max(ys)),
            image=image,
            points=tuple(zip(xs, ys, strict=True)),
        )


def _shapes(tag: str, inside: str) -> list[Sequence[str]]:
    """The numbers of each box or quadrilateral inside one tag; empty if it is malformed."""
    for pattern in (_QUAD,) if tag == "quad" else (_CORNERS, _LOCATIONS):
        match = pattern.fullmatch(inside)
        if match is not None:
            return [match.groups()]
    if tag == "quad" or _LISTS.fullmatch(inside) is None:
        return []
    return _FOUR.findall(inside)


@dataclass(frozen=True, kw_only=True)
class _Bracketed(ABC):
    """``label [x1, y1, x2, y2]`` as plain text. The label is the text directly before the bracket."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Empty, since brackets and digits are ordinary text."""
        return ()

    def decode(self, text: str, sizes: Sequence[tuple[int, int]]) -> list[GroundedBox]:
        """The well-formed boxes of ``text`` in source pixels; ``sizes`` are (width, height)."""
        return self.decode_with_errors(text, sizes).boxes

    def decode_with_errors(self, text: str, sizes: Sequence[tuple[int, int]]) -> Decoded:
        """The boxes of ``text``, and every bracket with numbers that is not a box."""
        found, errors, done = list[GroundedBox](), list[str](), 0
        for match in _BRACKETED.finditer(text):
            numbers = _FOUR.fullmatch(match["box"]) if match["end"] else None
            image = _image(text, match.start(), len(sizes))
            label = _IMAGE.sub("", re.split(r"[\n;,.]", text[done : match.start()])[-1])
            done = match.end()
            if numbers is None or not 0 <= image < len(sizes):
                errors.append(match[0])
                continue
            width, height = sizes[image]
            box = self._pixels(numbers.groups(), width, height)
            found.append(GroundedBox(label=label.strip(" :"), box=box, image=image))
        return Decoded(found, errors)

    @abstractmethod
    def _pixels(self, values: Sequence[str], width: int, height: int) -> Box: ...


@dataclass(frozen=True, kw_only=True)
class Unit(_Bracketed):
    """``label [x1, y1, x2, y2]`` in fractions of the width and height, as LLaVA 1.5 writes boxes.

    (Liu et al., 2023, "Improved baselines with visual instruction tuning", arXiv:2310.03744.)

    >>> Unit().encode((10, 20, 30, 40), 100, 100, label="cat")
    'cat [0.100, 0.200, 0.300, 0.400]'
    """

    digits: int = 3

    def __post_init__(self) -> None:
        if self.digits < 1:
            raise ValueError(f"digits must be at least 1, got {self.digits}")

    def encode(
        self, box: Box, width: int, height: int, *, label: str = "", image: int | None = None
    ) -> str:
        """``box`` in pixels of an image as text; ``image`` counts from 0, written from 1."""
        _check(box, width, height)
        sides = (width, height, width, height)
        parts = (
            f"{_clip(v / side, 1.0):.{self.digits}f}" for v, side in zip(box, sides, strict=True)
        )
        return f"{_where(image)}{label + ' ' if label else ''}[{', '.join(parts)}]"

    def _pixels(self, values: Sequence[str], width: int, height: int) -> Box:
        return _to_pixels(values, 1.0, width, height)


@dataclass(frozen=True, kw_only=True)
class Absolute(_Bracketed):
    """``label [x1, y1, x2, y2]`` in whole pixels of the source image.

    >>> Absolute().encode((10, 20, 30.4, 40), 100, 100)
    '[10, 20, 30, 40]'
    """

    def encode(
        self, box: Box, width: int, height: int, *, label: str = "", image: int | None = None
    ) -> str:
        """``box`` in pixels of an image as text; ``image`` counts from 0, written from 1."""
        _check(box, width, height)
        sides = (width, height, width, height)
        parts = (str(round(_clip(v, side))) for v, side in zip(box, sides, strict=True))
        return f"{_where(image)}{label + ' ' if label else ''}[{', '.join(parts)}]"

    def _pixels(self, values: Sequence[str], width: int, height: int) -> Box:
        x0, y0, x1, y1 = (float(value) for value in values)
        return (
            _clip(min(x0, x1), width),
            _clip(min(y0, y1), height),
            _clip(max(x0, x1), width),
            _clip(max(y0, y1), height),
        )
