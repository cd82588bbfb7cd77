"""Questions about generated pages that differ from a plain one in a single respect each."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import hdvl.data.synthetic.words as words
from hdvl.data.synthetic.suite import Difficulty, SuitePage, suite_page
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.samples import Sample, StoredImage, digest

SuiteTask = Literal["reading", "locating", "counting", "comparing"]

PAGE_FACTORS = {
    "text height": "text_height",
    "page width": "width",
    "density": "density",
    "rotation": "rotation",
    "JPEG quality": "quality",
}
"""What varies about the page, and the field of :class:`~hdvl.data.synthetic.suite.Difficulty`."""
TILER_FACTORS = {"tile budget": "max_tiles", "overlap": "stride"}
"""What varies about the model's tiler, and its field."""
VALUES: dict[str, tuple[Any, ...]] = {
    "text height": (8, 12, 16, 24, 32, 48),
    "page width": (336, 672, 1008, 1344, 2016, 4032),
    "density": ("sparse", "dense"),
    "rotation": (0.0, 1.0, 2.0, 3.0),
    "JPEG quality": (30, 50, 75, 95),
    "tile budget": (1, 2, 4, 8, 16, 64),
    "overlap": (0, 32, 64, 96),
}
"""The values of each factor: pixels of the font and of the page's width, degrees, tiles, pixels."""


def suite(
    folder: DataFolder,
    split: str,
    *,
    task: SuiteTask,
    pages: int = 8,
    per_page: int = 4,
    seed: int = 0,
    tile_size: int = 224,
    values: Mapping[str, Sequence[Any]] | None = None,
) -> list[Sample]:
    """Questions of one task about ``pages`` pages for each value of each factor.

    The plain page is 1008 x 756 px with a few entries of 16 px, neither rotated nor visibly compressed. The
    budget and the overlap of tiles are changed for a question by ``extra["tiler"]``. The first questions are
    spread over all factors, so that ``limit`` shortens every curve alike.

    Args:
        folder: not used: pages are drawn from ``seed``.
        split: not used.
        task: ``reading`` and ``locating`` ask for up to ``per_page`` values, ``counting`` for their
            number, ``comparing`` which of two pages has more.
        pages: number of pages for each value.
        per_page: number of questions about a page.
        seed: other seeds give other pages.
        tile_size: side of the model's tiles in pixels, from which the stride of an overlap follows.
        values: factors of :data:`VALUES` with other values; an empty list leaves a factor out.

    Raises:
        ValueError: a task or a factor is unknown, or a number or a value of a factor is out of its range.
    """
    makers = {"reading": _reading, "locating": _locating, "counting": _counting}
    if task not in (*makers, "comparing"):
        raise ValueError(f"task must be one of {', '.join([*makers, 'comparing'])}, got {task!r}")
    place = f"task.suite_{task}.read"
    for name, number in (("pages", pages), ("per_page", per_page), ("tile_size", tile_size)):
        if number < 1:
            raise ValueError(f"{place}.{name} must be at least 1, got {number}")
    chosen = {**VALUES, **(values or {})}
    _check_values(chosen, tile_size, f"{place}.values")
    found = list[Sample]()
    for number in range(pages):
        for name, difficulty, categories, extra in _points(chosen, tile_size):
            origin, place = f"{seed}/{number}", f"{name}/{number}"
            page = drawn(origin, difficulty)
            made = (
                _comparing(place, page, _other(origin, page, difficulty))
                if task == "comparing"
                else makers[task](place, page, per_page)
            )
            found += [
                replace(one, categories=categories, group=place, extra={**one.extra, **extra})
                for one in made
            ]
    return found


def _check_values(chosen: Mapping[str, Any], tile_size: int, place: str) -> None:
    """Raise a ``ValueError`` if a factor is unknown or one of its values is out of its range."""
    for factor, values in chosen.items():
        if factor not in VALUES:
            raise ValueError(f"{place} must be of the factors {', '.join(VALUES)}, got {factor!r}")
        if not isinstance(values, list | tuple):
            raise ValueError(
                f"{place}: {factor} must be a list, such as [{values}], got {values!r}"
            )
        for value in values:
            try:
                _check_value(factor, value, tile_size)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None


def _check_value(factor: str, value: Any, tile_size: int) -> None:
    """Raise a ``ValueError`` if a value of a factor has another type, or is out of its range."""
    kinds: dict[str, tuple[Any, str]] = {
        "density": ((str,), "text"),
        "rotation": ((int, float), "numbers"),
    }
    allowed, said = kinds.get(factor, ((int,), "whole numbers"))
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise ValueError(f"{factor} must be a list of {said}, got {value!r}")
    if factor == "tile budget" and value < 1:
        raise ValueError(f"{factor} must be at least 1, got {value}")
    if factor == "overlap" and not 0 <= value < tile_size:
        raise ValueError(
            f"{factor} must be at least 0 and below tile_size={tile_size}, got {value}"
        )
    if factor in PAGE_FACTORS:
        changed: dict[str, Any] = {PAGE_FACTORS[factor]: value}
        replace(Difficulty(), **changed)


@lru_cache(maxsize=2048)
def drawn(seed: str, difficulty: Difficulty) -> SuitePage:
    """A page, which the tasks of the suite share."""
    return suite_page(seed, difficulty)


def _points(
    chosen: Mapping[str, Sequence[Any]], tile_size: int
) -> Iterator[tuple[str, Difficulty, dict[str, str], dict[str, Any]]]:
    """Name, difficulty, categories and ``extra`` of the plain page and of each page that differs from it."""
    plain = Difficulty()
    base = {
        factor: label(getattr(plain, name))
        for factor, name in PAGE_FACTORS.items()
        if getattr(plain, name) in chosen[factor]
    }
    yield "plain", plain, base, {}
    for factor, name in PAGE_FACTORS.items():
        for value in chosen[factor]:
            if value != getattr(plain, name):
                changed = replace(plain, **{name: value})
                yield f"{factor} {label(value)}", changed, {factor: label(value)}, {}
    for factor, name in TILER_FACTORS.items():
        for value in chosen[factor]:
            changes = {name: tile_size - value if factor == "overlap" else value}
            yield f"{factor} {label(value)}", plain, {factor: label(value)}, {"tiler": changes}


def label(value: Any) -> str:
    """A value as reports name it.

    >>> label(2.0), label("dense")
    ('2', 'dense')
    """
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _image(name: str, page: SuitePage) -> StoredImage:
    return StoredImage(f"{name}.jpg", lambda: page.jpeg, content=digest(page.jpeg))


def _reading(name: str, page: SuitePage, per_page: int) -> list[Sample]:
    return [
        Sample(f"{name}/{index}", field.question, (_image(name, page),), (field.value,))
        for index, field in enumerate(page.fields[:per_page])
    ]


def _locating(name: str, page: SuitePage, per_page: int) -> list[Sample]:
    width, height = page.size
    return [
        Sample(
            f"{name}/{index}",
            words.phrase("where", "en", name=field.name),
            (_image(name, page),),
            extra={"box": list(field.box), "width": width, "height": height},
        )
        for index, field in enumerate(page.fields[:per_page])
    ]


def _counting(name: str, page: SuitePage, per_page: int) -> list[Sample]:
    answer = (str(len(page.fields)),)
    return [Sample(name, words.phrase("count", "en"), (_image(name, page),), answer)]


def _other(seed: str, page: SuitePage, difficulty: Difficulty) -> SuitePage:
    """The first further page with another number of values; where a page holds few, it may have the same."""
    for number in range(8):
        other = drawn(f"{seed}/{number}", difficulty)
        if len(other.fields) != len(page.fields):
            break
    return other


def _comparing(name: str, page: SuitePage, other: SuitePage) -> list[Sample]:
    """Which of two pages has more values."""
    pair = (page, other) if random.Random(name).random() < 0.5 else (other, page)
    first, second = (len(one.fields) for one in pair)
    answer = "same" if first == second else f"Picture {1 if first > second else 2}"
    images = tuple(_image(f"{name}/{index}", one) for index, one in enumerate(pair, start=1))
    return [Sample(name, words.phrase("compare", "en"), images, (answer,))]
