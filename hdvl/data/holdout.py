"""Splits conversations into those to train on and those to validate on, without a row in both."""

import hashlib
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.data.conversations import Conversations, name_of
from hdvl.data.quarantine import digest_at, row_digest
from hdvl.data.readers.base import RowConversations
from hdvl.data.rows import UNREADABLE
from hdvl.data.sources import Composite, leaves
from hdvl.inputs import check_share
from hdvl.protocols import Conversation, Message


class Selected:
    """The conversations of ``source`` with the numbers ``indices``, in that order."""

    def __init__(self, source: Conversations, indices: Sequence[int]) -> None:
        self.source, self.indices = source, array("q", indices)

    @property
    def sources(self) -> Mapping[str, Conversations]:
        """The one source."""
        return {"": self.source}

    def with_sources(self, sources: Mapping[str, Conversations]) -> "Selected":
        """The same numbers of another source."""
        return Selected(sources[""], self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Conversation:
        return self.source[self.indices[index]]

    def name(self, index: int) -> str:
        """The name of conversation ``index`` in errors."""
        return name_of(self.source, self.indices[index])


class Joined:
    """The concatenation of several sources."""

    def __init__(self, parts: Sequence[Conversations]) -> None:
        self._places = [(part, index) for part in parts for index in range(len(part))]
        self.sources: Mapping[str, Conversations] = {str(n): part for n, part in enumerate(parts)}

    def with_sources(self, sources: Mapping[str, Conversations]) -> "Joined":
        """The concatenation of other sources."""
        return Joined(list(sources.values()))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Conversation:
        source, place = self._places[index]
        return source[place]

    def name(self, index: int) -> str:
        """The name of conversation ``index`` in errors."""
        return name_of(*self._places[index])


def hold_out(
    conversations: Conversations, share: float, *, by: str | None = None
) -> tuple[Conversations, Conversations]:
    """The conversations to train on, and about ``share`` of all rows to validate on.

    Rows that name the same image, or that are equal, stay on one side, and so do rows that are
    connected by a third one. The split follows from the content of the rows alone: their order, the
    seed and the number of processes do not change it. It is made over all sources together. Sources
    that are not read from rows, such as synthetic documents, are split by the numbers of their
    conversations.

    Args:
        conversations: all of them.
        share: the fraction to hold out, above 0 and below 1; at least one row is held out.
        by: a field of the rows, such as ``document``; rows with one value of it stay on one side too.

    Raises:
        ValueError: ``share`` is out of range, a row lacks the field ``by``, or the rows cannot be split
            because they are all connected.
    """
    check_share(share)
    sources = list({id(leaf): leaf for leaf in leaves(conversations)}.values())
    rows = [(number, index) for number, leaf in enumerate(sources) for index in range(len(leaf))]
    groups = _groups(key for leaf in sources for key in _row_keys(leaf, by, len(sources) == 1))
    held = {rows[place] for place in _choose(groups, len(rows), share)}
    train, validation = dict[int, Conversations](), list[Conversations]()
    for number, leaf in enumerate(sources):
        sides: tuple[list[int], list[int]] = ([], [])
        for index in range(len(leaf)):
            sides[(number, index) in held].append(index)
        if not sides[0]:
            raise ValueError(
                f"data.holdout={share} would leave no row of {getattr(leaf, 'label', 'a source')} to "
                "train on; use a smaller share, or validate on a file of its own"
            )
        train[id(leaf)] = Selected(leaf, sides[0])
        if sides[1]:
            validation.append(Selected(leaf, sides[1]))
    return _replace_leaves(conversations, train), Joined(validation)


def _replace_leaves(
    conversations: Conversations, new: Mapping[int, Conversations]
) -> Conversations:
    if not isinstance(conversations, Composite):
        return new[id(conversations)]
    inner = {name: _replace_leaves(part, new) for name, part in conversations.sources.items()}
    return conversations.with_sources(inner)


def _row_keys(leaf: Conversations, by: str | None, single: bool) -> Iterator[list[str]]:
    """For each conversation, the keys that it may share with others.

    The folder of the images is a part of the keys only where there are several sources (not ``single``),
    so that a folder that was moved is split as before.
    """
    for index in range(len(leaf)):
        if isinstance(leaf, RowConversations):
            yield _keys_of_row(leaf, index, by, leaf.image_folder if single else Path())
        elif by is not None:
            raise ValueError(
                f"data.holdout_by={by} needs data that are read from rows; leave it null"
            )
        else:
            yield [f"number {index} of {type(leaf).__name__}"]


def _keys_of_row(reader: RowConversations, index: int, by: str | None, folder: Path) -> list[str]:
    place = reader.place(index)
    keys = list[str]()
    if by is not None:
        row = reader.row(place)
        if not isinstance(row, Mapping) or row.get(by) is None:
            raise ValueError(
                f"data.holdout_by={by} must be a field of every row, {reader.name(index)} has none"
            )
        keys.append(f"{by}={row[by]}")
    try:
        messages: list[Message] = reader.messages(place)
        images = [_image_key(image, folder) for message in messages for image in message.images]
    except UNREADABLE:
        images = []
    return keys + (images or [digest_at(reader.row, place)])


def _image_key(image: Any, folder: Path) -> str:
    """A path relative to ``folder``, or a hash of anything else."""
    if isinstance(image, Path):
        return os.path.relpath(image, folder)
    return row_digest(image)


def _groups(keys: Iterator[list[str]]) -> list[list[int]]:
    """The rows that share keys, directly or through others, in an order that follows from the keys alone."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    firsts = list[str]()
    for own in keys:
        for key in own:
            parent.setdefault(key, key)
        for key in own[1:]:
            # The smaller name becomes the root, so that the root does not depend on the order of rows.
            low, high = sorted((root(own[0]), root(key)))
            parent[high] = low
        firsts.append(own[0])
    groups: dict[str, list[int]] = {}
    for place, key in enumerate(firsts):
        groups.setdefault(root(key), []).append(place)
    ordered = sorted(
        groups, key=lambda key: hashlib.blake2b(key.encode("utf-8", "replace")).digest()
    )
    return [groups[key] for key in ordered]


def _choose(groups: Sequence[list[int]], count: int, share: float) -> list[int]:
    """The rows of the first groups that fit into ``share`` of ``count``; at least one group."""
    if len(groups) < 2:
        raise ValueError(
            f"data.holdout={share} cannot split {count} rows that all share an image; add rows with "
            "other images, or validate on a file of its own (data.validation.path)"
        )
    target, chosen = max(1, round(share * count)), list[int]()
    for group in groups:
        if len(chosen) + len(group) <= target:
            chosen += group
    return chosen or min(groups, key=len)
