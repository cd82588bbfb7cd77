"""Questions about synthetic documents: read, locate, count, compare, transcribe."""

import random
from dataclasses import dataclass
from typing import Literal

from hdvl.data.synthetic.documents import Document
from hdvl.data.synthetic.page import Field
from hdvl.data.synthetic.words import phrase
from hdvl.protocols import Box, BoxCodec

Task = Literal["read", "locate", "count", "compare", "transcribe"]


@dataclass(frozen=True)
class Question:
    """A question, its answer as text, and for ``locate`` the box in source pixels."""

    task: Task
    text: str
    answer: str
    box: Box | None = None


def read(field: Field) -> Question:
    """Ask for what a field says."""
    return Question("read", field.question, field.value)


def locate(field: Field, document: Document, codec: BoxCodec) -> Question:
    """Ask where a field's value stands; the answer repeats what was asked for and gives its box."""
    text = phrase("where", document.language, name=field.name)
    place = codec.encode(field.box, *document.image.size, label=field.name)
    return Question("locate", text, place, field.box)


def count(document: Document) -> Question:
    """Ask for the number of values on the page."""
    text = phrase("count", document.language)
    return Question("count", text, str(len(document.fields)))


def transcribe(document: Document) -> Question:
    """Ask for all lines of the page."""
    text = phrase("transcribe", document.language)
    return Question("transcribe", text, "\n".join(document.lines))


def compare(first: Document, second: Document) -> Question:
    """Ask which of two images shows more values (same count: "same")."""
    sizes = len(first.fields), len(second.fields)
    zh = first.language == "zh"
    text = phrase("compare", first.language)
    if sizes[0] == sizes[1]:
        return Question("compare", text, "一样" if zh else "same")
    winner = 1 if sizes[0] > sizes[1] else 2
    return Question("compare", text, f"图{winner}" if zh else f"Picture {winner}")


def make_questions(
    document: Document,
    rng: random.Random,
    codec: BoxCodec,
    *,
    turns: int,
    locate_share: float = 0.0,
    count_share: float = 0.0,
) -> list[Question]:
    """Up to ``turns`` different questions about one document, in random order."""
    fields = rng.sample(document.fields, min(turns, len(document.fields)))
    questions = [
        locate(field, document, codec) if rng.random() < locate_share else read(field)
        for field in fields
    ]
    if rng.random() < count_share:
        questions[rng.randrange(len(questions))] = count(document)
    return questions
