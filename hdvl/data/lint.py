"""Checks the images, text, boxes and length of every row of training data, as training would read them."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from hdvl.data.boxes import box_faults
from hdvl.data.conversations import Conversations
from hdvl.data.quarantine import VERSION, digest_at
from hdvl.data.readers.base import RowConversations
from hdvl.data.rows import SKIPPABLE, RowError, printable
from hdvl.data.sizes import max_pixels_of, plan_by
from hdvl.data.sources import Composite as Composite
from hdvl.data.sources import finish, leaves
from hdvl.data.threads import ThreadLoader
from hdvl.images import read_bytes, read_image
from hdvl.processor import Processor
from hdvl.protocols import Message, Tiler, tiler_for, token_count
from hdvl.templates.encode import NothingSupervised, encode

FAULTS: Mapping[str, str] = {
    "row": "not a conversation",
    "placeholder": "another number of images than of <image> marks",
    "image": "an image that cannot be read",
    "box": "a box that is malformed, without area, or not inside its image",
    "conversation": "turns or control tokens that the template rejects",
    "unsupervised": "no supervised token",
    "long": "longer than data.max_length or the context of the language model",
    "duplicate": "the same as an earlier row",
}
_TOGETHER = 16


def row_sources(conversations: Conversations) -> list[RowConversations]:
    """The sources of ``conversations``, which must all read rows of files.

    Raises:
        ValueError: a source does not read rows, or skips rows by a quarantine file.
    """
    found = list[RowConversations]()
    for leaf in leaves(conversations):
        if not isinstance(leaf, RowConversations):
            raise ValueError(
                f"data to check must be rows of files, {type(leaf).__name__} generates its own"
            )
        if len(leaf) != leaf.count():
            raise ValueError(
                f"every row must be checked, the quarantine of {leaf.label} leaves some out; set "
                "quarantine=null"
            )
        found.append(leaf)
    return found


@dataclass(frozen=True)
class CheckedRow:
    """The result for one row: (fault, reason) of each fault, and a hash of its text and images."""

    place: int
    faults: tuple[tuple[str, str], ...]
    digest: str | None


@dataclass(frozen=True)
class Finding:
    """A row with faults."""

    source: str
    row: int
    name: str
    faults: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """The results for all sources. ``rows`` is the number of rows of each source by its name."""

    rows: dict[str, int]
    findings: tuple[Finding, ...]
    sources: tuple[RowConversations, ...]

    def bad(self, leave_out: Collection[str]) -> list[Finding]:
        """The rows that have one of the faults in ``leave_out``."""
        return [f for f in self.findings if any(fault in leave_out for fault, _ in f.faults)]

    def counts(self) -> dict[str, int]:
        """The number of rows with each fault."""
        counted = Counter(fault for f in self.findings for fault in dict(f.faults))
        return {fault: counted[fault] for fault in FAULTS}

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        findings = [
            {
                "source": finding.source,
                "row": finding.row,
                "name": finding.name,
                "faults": [{"fault": fault, "reason": reason} for fault, reason in finding.faults],
            }
            for finding in self.findings
        ]
        return {"rows": self.rows, "faults": self.counts(), "findings": findings}

    def quarantine(self, leave_out: Collection[str]) -> dict[str, Any]:
        """The content of a quarantine file (see ``hdvl.data.quarantine``)."""
        by_name = {source.called: source for source in self.sources}
        sources: dict[str, Any] = {
            name: {
                "label": source.label,
                "settings": source.settings,
                "rows": self.rows[name],
                "left_out": [],
            }
            for name, source in by_name.items()
        }
        for finding in self.bad(leave_out):
            sources[finding.source]["left_out"].append(
                {
                    "row": finding.row,
                    "digest": digest_at(by_name[finding.source].row, finding.row),
                    "faults": [fault for fault, _ in finding.faults],
                    "name": finding.name,
                }
            )
        return {"version": VERSION, "sources": sources}


def lint(
    sources: Sequence[RowConversations], processor: Processor, *, num_workers: int = 1
) -> Report:
    """Check every row of ``sources`` with ``num_workers`` threads.

    If an image of a row cannot be read, the text of this row is not checked. Of several equal rows, in one
    source or in several, all but the first are faulty.
    """
    finish(sources, processor)
    seen = dict[str, str]()
    findings = list[Finding]()
    unique = {source.called: source for source in sources}
    for called, source in unique.items():
        for checked in _check_all(source, processor, num_workers):
            faults = checked.faults
            if checked.digest is not None:
                first = seen.setdefault(checked.digest, source.name(checked.place))
                if first != source.name(checked.place):
                    faults = (*faults, ("duplicate", f"the same as {first}"))
            if faults:
                name = source.name(checked.place)
                shown = tuple((fault, printable(reason)) for fault, reason in faults)
                findings.append(Finding(called, checked.place, name, shown))
    rows = {called: source.count() for called, source in unique.items()}
    return Report(rows, tuple(findings), tuple(unique.values()))


def _check_all(
    source: RowConversations, processor: Processor, num_workers: int
) -> Iterator[CheckedRow]:
    total = len(source)
    batches = [range(at, min(at + _TOGETHER, total)) for at in range(0, total, _TOGETHER)]
    rows = _Rows(source, processor)
    for batch in ThreadLoader(rows, batches, collate=list, num_workers=max(1, num_workers)):
        yield from batch


class _Rows:
    """The checked rows by number; each is checked when it is accessed."""

    def __init__(self, source: RowConversations, processor: Processor) -> None:
        self.source, self.processor = source, processor

    def __getitem__(self, index: int) -> CheckedRow:
        return check_row(self.source, index, self.processor)


def check_row(source: RowConversations, index: int, processor: Processor) -> CheckedRow:
    """Check one row."""
    place = source.place(index)
    try:
        messages = source.as_written(index)
    except RowError as error:
        return CheckedRow(place, ((error.fault, str(error)),), None)
    sizes, faults = _sizes(messages, processor.tiler)
    if faults:
        return CheckedRow(place, faults, None)
    codec = source.written or processor.template.boxes
    shown = 0
    for message in messages:
        shown += len(message.images)
        declared = source.written is not None
        for wrong in box_faults(message.text, codec, sizes[:shown], declared=declared):
            faults = (*faults, ("box", f"box {wrong}, of {message.role}"))
    if not faults:
        messages = source[index]  # with its boxes as the template writes them
    faults = (*faults, *_text_faults(messages, sizes, processor))
    return CheckedRow(place, faults, _digest(messages))


def _sizes(
    messages: Sequence[Message], tiler: Tiler
) -> tuple[list[tuple[int, int]], tuple[tuple[str, str], ...]]:
    """(width, height) of each image after decoding all its pixels, and the faults of those that fail."""
    sizes, faults = list[tuple[int, int]](), list[tuple[str, str]]()
    for image in (image for message in messages for image in message.images):
        try:
            size = read_image(image, exif=tiler.exif, max_pixels=max_pixels_of(tiler)).size
            plan_by(tiler, size)
        except SKIPPABLE as error:
            faults.append(("image", str(error)))
        else:
            sizes.append(size)
    return sizes, tuple(faults)


def _text_faults(
    messages: Sequence[Message], sizes: Sequence[tuple[int, int]], processor: Processor
) -> list[tuple[str, str]]:
    tiler = tiler_for(processor.tiler, len(sizes))
    layouts = [processor.layout(tiler.plan(*size)) for size in sizes]
    try:
        encoded = encode(processor.template, processor.tokenizer, messages, layouts)
    except NothingSupervised as error:
        return [("unsupervised", str(error))]
    except ValueError as error:
        return [("conversation", str(error))]
    try:
        processor.check_context(len(encoded.ids))
    except ValueError as error:
        return [("long", str(error))]
    limit = processor.max_length
    if limit is not None and len(encoded.ids) > limit:
        images = sum(map(token_count, layouts))
        return [
            ("long", f"{len(encoded.ids)} ids, {images} of them of images; at most {limit} fit")
        ]
    return []


def _digest(messages: Sequence[Message]) -> str:
    """Hash of the text and the image bytes of a conversation; file names are not included."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        for part in (message.role, message.text):
            digest.update(hashlib.blake2b(part.encode("utf-8", "surrogatepass")).digest())
        for image in message.images:
            data = image.tobytes() if isinstance(image, Image.Image) else read_bytes(image)
            digest.update(hashlib.blake2b(data).digest())
    return digest.hexdigest()
