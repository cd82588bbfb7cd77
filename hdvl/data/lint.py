"""What is wrong with the rows of data, each looked at as training would: images, text, boxes, length."""

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
from hdvl.data.rows import NOT_LEARNED, RowError, printable
from hdvl.data.sizes import max_pixels_of, plan_by
from hdvl.data.sources import Composite as Composite
from hdvl.data.sources import finish, leaves
from hdvl.data.threads import ThreadLoader
from hdvl.images import read_bytes, read_image
from hdvl.processor import Processor
from hdvl.protocols import Message, Tiler, tiler_for, token_count
from hdvl.templates.encode import NothingSupervised, encode

FAULTS: Mapping[str, str] = {
    "row": "not of the shape of a conversation",
    "placeholder": "other images than marks for them",
    "image": "an image that cannot be read",
    "box": "a box that is none, or leaves its image",
    "conversation": "turns or control tokens that the template refuses",
    "unsupervised": "no token to learn from",
    "long": "longer than data.max_length or the context of the language model",
    "duplicate": "the same as an earlier row",
}
_TOGETHER = 16


def row_sources(conversations: Conversations) -> list[RowConversations]:
    """The sources with rows of files that ``conversations`` are made of.

    Raises:
        ValueError: some have none, or leave rows out already: all are looked at.
    """
    found = list[RowConversations]()
    for leaf in leaves(conversations):
        if not isinstance(leaf, RowConversations):
            raise ValueError(
                f"data to look at must be rows of files, {type(leaf).__name__} makes its own"
            )
        if len(leaf) != leaf.count():
            raise ValueError(
                f"every row is looked at, the quarantine of {leaf.label} leaves some out; set "
                "quarantine=null"
            )
        found.append(leaf)
    return found


@dataclass(frozen=True)
class Looked:
    """One row: what is wrong with it as (fault, reason), and a hash of what it says and shows."""

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
    """What was found. ``rows`` are the rows of each source by its name."""

    rows: dict[str, int]
    findings: tuple[Finding, ...]
    sources: tuple[RowConversations, ...]

    def bad(self, leave_out: Collection[str]) -> list[Finding]:
        """The rows with one of the faults ``leave_out``."""
        return [f for f in self.findings if any(fault in leave_out for fault, _ in f.faults)]

    def counts(self) -> dict[str, int]:
        """How many rows have each fault."""
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
    """Look at every row of ``sources``, with ``num_workers`` threads.

    A row is looked at as far as it goes: an image that cannot be read hides what its tokens would be.
    Of equal rows, in one source or in several, the first is right.
    """
    finish(sources, processor)
    seen = dict[str, str]()
    findings = list[Finding]()
    unique = {source.called: source for source in sources}
    for called, source in unique.items():
        for looked in _look_at_all(source, processor, num_workers):
            faults = looked.faults
            if looked.digest is not None:
                first = seen.setdefault(looked.digest, source.name(looked.place))
                if first != source.name(looked.place):
                    faults = (*faults, ("duplicate", f"the same as {first}"))
            if faults:
                name = source.name(looked.place)
                said = tuple((fault, printable(reason)) for fault, reason in faults)
                findings.append(Finding(called, looked.place, name, said))
    rows = {called: source.count() for called, source in unique.items()}
    return Report(rows, tuple(findings), tuple(unique.values()))


def _look_at_all(
    source: RowConversations, processor: Processor, num_workers: int
) -> Iterator[Looked]:
    total = len(source)
    batches = [range(at, min(at + _TOGETHER, total)) for at in range(0, total, _TOGETHER)]
    rows = _Rows(source, processor)
    for batch in ThreadLoader(rows, batches, collate=list, num_workers=max(1, num_workers)):
        yield from batch


class _Rows:
    """Rows that are looked at where they are asked for."""

    def __init__(self, source: RowConversations, processor: Processor) -> None:
        self.source, self.processor = source, processor

    def __getitem__(self, index: int) -> Looked:
        return look(self.source, index, self.processor)


def look(source: RowConversations, index: int, processor: Processor) -> Looked:
    """What is wrong with one row."""
    place = source.place(index)
    try:
        messages = source.as_written(index)
    except RowError as error:
        return Looked(place, ((error.fault, str(error)),), None)
    sizes, faults = _sizes(messages, processor.tiler)
    if faults:
        return Looked(place, faults, None)
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
    return Looked(place, faults, _digest(messages))


def _sizes(
    messages: Sequence[Message], tiler: Tiler
) -> tuple[list[tuple[int, int]], tuple[tuple[str, str], ...]]:
    """(width, height) of each image, all pixels decoded, and those that cannot be."""
    sizes, faults = list[tuple[int, int]](), list[tuple[str, str]]()
    for image in (image for message in messages for image in message.images):
        try:
            size = read_image(image, exif=tiler.exif, max_pixels=max_pixels_of(tiler)).size
            plan_by(tiler, size)
        except NOT_LEARNED as error:
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
        return [("long", f"{len(encoded.ids)} ids, {images} of them of images; {limit} may be")]
    return []


def _digest(messages: Sequence[Message]) -> str:
    """Hash of what a conversation says and shows: the bytes of its images, whatever their names."""
    whole = hashlib.blake2b(digest_size=16)
    for message in messages:
        for part in (message.role, message.text):
            whole.update(hashlib.blake2b(part.encode("utf-8", "surrogatepass")).digest())
        for image in message.images:
            data = image.tobytes() if isinstance(image, Image.Image) else read_bytes(image)
            whole.update(hashlib.blake2b(data).digest())
    return whole.hexdigest()
