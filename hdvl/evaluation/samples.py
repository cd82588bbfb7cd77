"""The questions of a benchmark, in one form for all of them, and the images that they are about."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StoredImage:
    """An image inside another file, read when it is needed.

    Attributes:
        name: its name in messages and reports.
        read: returns its bytes.
        content: a text that is the same for equal images; the name if there is no such text.
    """

    name: str
    read: Callable[[], bytes] = field(repr=False, compare=False)
    content: str = ""

    def __str__(self) -> str:
        return self.content or self.name


ImageReference = Path | StoredImage


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        id: unique within its task.
        question: the text of the question alone.
        images: the images in their order; the question may hold ``<image>`` where each belongs.
        answers: the accepted answers; for a choice, the letter.
        options: the texts of the options by their letters.
        hint: text that a protocol may put before the question.
        categories: names of the groups that the question belongs to, by the kind of group.
        extra: further fields that the scorer or the prompt of the task needs.
        group: questions with the same group are about the same images. Standard errors are clustered by
            it, and the questions of a group are asked together.
    """

    id: str
    question: str
    images: tuple[ImageReference, ...] = ()
    answers: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""
    categories: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    @property
    def answer(self) -> str:
        """The only answer of a question that has one.

        Raises:
            ValueError: the file of the benchmark has no answer to it.
        """
        return self.accepted[0]

    @property
    def accepted(self) -> tuple[str, ...]:
        """The accepted answers, of which there is at least one.

        Raises:
            ValueError: the file of the benchmark has no answer to it.
        """
        if not self.answers:
            raise ValueError(
                f"question {self.id} must have an answer in its file to be scored, it has none"
            )
        return self.answers


def image_bytes(image: ImageReference) -> bytes:
    """The bytes of an image file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return image.read_bytes() if isinstance(image, Path) else image.read()


def image_name(image: ImageReference) -> str:
    """The name of an image in messages and reports."""
    return str(image) if isinstance(image, Path) else image.name


def from_base64(text: str, name: str) -> bytes:
    """The bytes that a cell of a table stores in base64.

    Raises:
        ValueError: the text is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the image {name} must be base64, it is not: {error}") from None


def duplicates(samples: Sequence[Sample]) -> list[str]:
    """The ids that occur more than once."""
    seen, found = set[str](), dict[str, None]()
    for sample in samples:
        if sample.id in seen:
            found[sample.id] = None
        seen.add(sample.id)
    return list(found)


def digest(*parts: str | bytes) -> str:
    """A hash of texts and bytes, each with its length so that no two sequences are confused."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(f"{len(raw)}:".encode())
        total.update(raw)
    return total.hexdigest()
