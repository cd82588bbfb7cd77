"""Questions about synthetic documents: read, locate, count, compare, transcribe."""

import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

import hdvl.data.synthetic.words as words
from hdvl.data.synthetic.page import Document, Field
from hdvl.data.synthetic.values import invented_label, vocabulary
from hdvl.data.synthetic.words import phrase
from hdvl.protocols import Box, BoxCodec

Task = Literal["read", "locate", "count", "compare", "transcribe", "absent"]


@dataclass(frozen=True)
class Question:
    """A question, its answer as text, and for ``locate`` the box in source pixels."""

    task: Task
    text: str
    answer: str
    box: Box | None = None


def read(field: Field, wording: str | None = None) -> Question:
    """Ask for the value of a field; ``wording`` replaces the question and has a placeholder for the name."""
    text = field.question if wording is None else worded(wording, field.name)
    return Question("read", text, field.value)


def locate(
    field: Field, document: Document, codec: BoxCodec, wording: str | None = None
) -> Question:
    """Ask for the box of a field's value; the answer repeats the name of the field."""
    text = phrase("where", document.language, name=field.name)
    text = text if wording is None else worded(wording, field.name)
    place = codec.encode(field.box, *document.image.size, label=field.name)
    return Question("locate", text, place, field.box)


def worded(wording: str, name: str) -> str:
    """A question in which ``{name}``, ``{Name}`` (as printed) or ``{NAME}`` is the name of the field."""
    return wording.format(name=name, Name=name[:1].upper() + name[1:], NAME=name.upper())


def wordings(task: Literal["read", "where"], language: str) -> list[str]:
    """Other wordings of a question than the one that the documents have."""
    return list(vocabulary()["wordings"][task][language])


def absent(
    document: Document, rng: random.Random, wording: str | None = None, *, invented: bool = False
) -> Question:
    """Ask for something that is not on the page. The answer is one fixed sentence in the page's language.

    ``invented``: the requested thing is an invented word (English).
    """
    if invented:
        text = worded(wording or "What is the {name}?", invented_label(rng).lower())
        return Question("absent", text, refusal("en"))
    shown = " ".join([*document.lines, *(field.name for field in document.fields)]).lower()
    lists = _name_lists(document.language)
    near = [part for part in lists if any(_named(part, field.name) for field in document.fields)]
    while True:
        # Half of the questions are about things similar to those on the page, such as a second tax.
        part = rng.choice(near if near and rng.random() < 0.5 else lists)
        name = rng.choice(part)
        if name.lower() not in shown:
            break
    form = rng.choice(("label", "where", "price" if document.language == "en" else "label"))
    if wording is None:
        words_of = {"labels": name, "goods": name, "name": name.lower()}
        text = phrase(form, document.language, **words_of)
    else:
        text = worded(wording, name.lower())
    return Question("absent", text, refusal(document.language))


def refusal(language: str) -> str:
    """The answer if the requested thing is not on the page."""
    return str(vocabulary()["absent"][language])


@cache
def _name_lists(language: str) -> tuple[tuple[str, ...], ...]:
    """The names of fields, as lists of similar names."""
    found = [part[language] for part in (words.LABELS, words.GOODS, words.TOTALS, words.SHOPS)]
    found.append(words.PLACES[language])
    if language == "en":
        groups = vocabulary()["groups"].values()
        found += [[name for names in group.values() for name in names] for group in groups]
    return tuple(tuple(part) for part in found)


def _named(names: tuple[str, ...], name: str) -> bool:
    """Whether a field's name is, or begins with, one of ``names``."""
    return any(name.lower().startswith(one.lower()) for one in names)


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
    absent_share: float = 0.0,
    reworded_share: float = 0.0,
) -> list[Question]:
    """Up to ``turns`` different questions about one document, in random order.

    Args:
        document: the document. If it has no fields, the questions ask for something that is not there.
        rng: makes all choices.
        codec: writes boxes.
        turns: the most questions.
        locate_share: share of the questions that ask for a box.
        count_share: share of the documents with a question for a count.
        absent_share: share of the questions that ask for something that is not on the page.
        reworded_share: share of the questions in other words than the document's own.
    """

    def wording(task: Literal["read", "where"]) -> str | None:
        # Without a share no random number is drawn: questions stay those of earlier versions.
        reworded = reworded_share and rng.random() < reworded_share
        return rng.choice(wordings(task, document.language)) if reworded else None

    if not document.fields:
        return [absent(document, rng, wording("read")) for _ in range(min(turns, 2))]
    fields = rng.sample(document.fields, min(turns, len(document.fields)))
    questions = []
    for field in fields:
        if absent_share and rng.random() < absent_share:
            task: Literal["read", "where"] = rng.choice(("read", "where"))
            questions.append(absent(document, rng, wording(task)))
        elif rng.random() < locate_share:
            questions.append(locate(field, document, codec, wording("where")))
        else:
            questions.append(read(field, wording("read")))
    if rng.random() < count_share:
        questions[rng.randrange(len(questions))] = count(document)
    return questions
