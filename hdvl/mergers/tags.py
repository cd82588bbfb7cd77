"""Text around the visual tokens of an image: tags of tiles, row breaks and markers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from itertools import groupby
from string import Formatter
from typing import Any

from hdvl.geometry import Grid, Layout, TilePlan

PLACEHOLDERS = ("row", "col", "index")


@dataclass(frozen=True, kw_only=True)
class Tags:
    """Strings written around the visual tokens of an image; all are empty unless given.

    A tag is tokenised by the model's tokenizer together with the text around the image, may become
    several ids, and is never trained on. The tags of a window may hold ``{row}``, ``{col}`` and
    ``{index}``, which count from 1; ``index`` counts the windows of one image.

    Attributes:
        before_image: before everything else of the image.
        after_image: after everything else of the image.
        before_windows: before the first window.
        after_windows: after the last window.
        before_tile: before each window, for instance ``<row_{row}_col_{col}>``.
        after_tile: after each window.
        between_tiles: between two windows of the same row.
        row_end: after each row of windows.
        between_rows: between two rows of windows.
        before_thumbnail: before the thumbnail, for instance ``<global-img>``.
        after_thumbnail: after the thumbnail.
        before_single: in place of ``before_tile`` where the image is one window without a thumbnail;
            ``None`` for the same as ``before_tile``.
        after_single: likewise in place of ``after_tile``.
        token_row_end: after each row of visual tokens of a view.
    """

    before_image: str = ""
    after_image: str = ""
    before_windows: str = ""
    after_windows: str = ""
    before_tile: str = ""
    after_tile: str = ""
    between_tiles: str = ""
    row_end: str = ""
    between_rows: str = ""
    before_thumbnail: str = ""
    after_thumbnail: str = ""
    before_single: str | None = None
    after_single: str | None = None
    token_row_end: str = ""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"tags.{entry.name} must be a string, got {value!r}")
            self._check_placeholders(entry.name, value or "")

    @staticmethod
    def _check_placeholders(name: str, value: str) -> None:
        allowed = PLACEHOLDERS if name in ("before_tile", "after_tile") else ()
        try:
            found = [field for _, field, _, _ in Formatter().parse(value) if field is not None]
        except ValueError as error:
            raise ValueError(
                f"tags.{name} must be text with placeholders such as {{row}}, got {value!r} "
                f"({error}); write {{{{ and }}}} for braces"
            ) from error
        unknown = [field for field in found if field not in allowed]
        if unknown:
            raise ValueError(
                f"tags.{name} may hold {', '.join(f'{{{key}}}' for key in allowed) or 'no placeholder'}"
                f", got {value!r}; write {{{{ and }}}} for braces"
            )

    @classmethod
    def of(cls, tags: "Mapping[str, Any] | Tags | None") -> "Tags":
        """Return tags from a mapping of names to strings.

        Raises:
            ValueError: a name is unknown; the message suggests the most similar one.
        """
        if tags is None or isinstance(tags, Tags):
            return tags or cls()
        known = [entry.name for entry in fields(cls)]
        for name in tags:
            if name not in known:
                close = get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"tags must be among {', '.join(known)}, got {name!r}{hint}")
        return cls(**tags)

    def text(self, name: str) -> str:
        """Return the tag ``name`` as it is written in the prompt, with single instead of doubled braces."""
        value: str = getattr(self, name)
        return value.format()

    def refuse(self, names: Sequence[str], merger: str) -> None:
        """Check that none of the tags ``names`` is set, because ``merger`` does not support them.

        Raises:
            ValueError: one of them is set.
        """
        given = [name for name in names if getattr(self, name)]
        if given:
            raise ValueError(
                f"{merger} puts the windows together as one image and has no place for "
                f"tags.{given[0]}={getattr(self, given[0])!r}; use merger=concat, or before_windows "
                "and after_windows"
            )


def joined(pieces: Sequence[str | int]) -> Layout:
    """Return a layout whose neighbouring texts are joined, numbers added and empty pieces removed.

    >>> joined(["<a>", "<b>", 3, "", 4, 0])
    ('<a><b>', 7)
    """
    layout: list[str | int] = []
    for piece in pieces:
        if not piece:
            continue
        if layout and isinstance(piece, str) and isinstance(layout[-1], str):
            layout[-1] += piece
        elif layout and isinstance(piece, int) and isinstance(layout[-1], int):
            layout[-1] += piece
        else:
            layout.append(piece)
    return tuple(layout)


def grid_pieces(grid: Grid, tags: Tags, *, extra: int = 0) -> list[str | int]:
    """Return the pieces of a grid of visual tokens, with ``extra`` more tokens at the end of each row."""
    rows, cols = grid
    return row_pieces([cols + extra] * rows, tags)


def row_pieces(lengths: Sequence[int], tags: Tags) -> list[str | int]:
    """Return the pieces of rows of visual tokens of these lengths."""
    if not tags.token_row_end:
        return [sum(lengths)]
    return [piece for length in lengths for piece in (length, tags.text("token_row_end"))]


def tile_pieces(plan: TilePlan, grids: Sequence[Grid], tags: Tags) -> list[str | int]:
    """Return the pieces of all windows with their tags, row by row.

    Args:
        plan: how the image was cut.
        grids: (rows, cols) of the tokens of each window.
        tags: the tags.
    """
    if len(plan.windows) == 1 and plan.thumbnail is None and plan.rows * plan.cols == 1:
        before = tags.before_tile if tags.before_single is None else tags.before_single
        after = tags.after_tile if tags.after_single is None else tags.after_single
    else:
        before, after = tags.before_tile, tags.after_tile
    pieces: list[str | int] = []
    numbered = zip(plan.window_places, grids, strict=True)
    items = [(row, col, index, grid) for index, ((row, col), grid) in enumerate(numbered, 1)]
    for number, (_, row_items) in enumerate(groupby(items, key=lambda item: item[0])):
        pieces += [tags.text("between_rows")] if number else []
        for place, (row, col, index, grid) in enumerate(row_items):
            names = {"row": row + 1, "col": col + 1, "index": index}
            pieces += [tags.text("between_tiles")] if place else []
            pieces += [before.format(**names), *grid_pieces(grid, tags), after.format(**names)]
        pieces.append(tags.text("row_end"))
    return pieces


def image_layout(
    plan: TilePlan,
    windows: Sequence[str | int],
    thumbnail: Grid | None,
    tags: Tags,
) -> Layout:
    """Return the layout of an image.

    Args:
        plan: how the image was cut.
        windows: the pieces of the windows.
        thumbnail: (rows, cols) of the tokens of the thumbnail, if there is one.
        tags: the tags.
    """
    pieces: list[str | int] = []
    if plan.windows:
        pieces = [tags.text("before_windows"), *windows, tags.text("after_windows")]
    if thumbnail is not None:
        thumbnail_pieces = [
            tags.text("before_thumbnail"),
            *grid_pieces(thumbnail, tags),
            tags.text("after_thumbnail"),
        ]
        first = plan.thumbnail == "first"
        pieces = [*thumbnail_pieces, *pieces] if first else [*pieces, *thumbnail_pieces]
    return joined([tags.text("before_image"), *pieces, tags.text("after_image")])
