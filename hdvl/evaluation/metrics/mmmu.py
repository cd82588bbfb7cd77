"""MMMU: rules that extract the answer from a response, and the accuracy.

If no rule applies to a multiple-choice response, the official code chooses an option at random, after
``random.seed(42)`` at import, so that its score depends on the order of the questions. Here such a
response is unparsed and wrong. ``official_random_seed=42`` repeats the random choices, with the subjects
in alphabetical order as in the official script.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hdvl.evaluation.metrics.answer_numbers import (
    all_numbers,
    holds_answer,
    key_phrases,
    number_of,
)
from hdvl.evaluation.metrics.mmmu_domains import by_domain

STRIPPED = ",.!?;:'"  # each character is stripped from both ends, in this order
INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ", "=")
GROUPED = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")
MIN_WORDS = 5  # only responses of more words are searched for the text of an option


def strip_each(text: str, marks: str = STRIPPED) -> str:
    """``text`` with each mark stripped from its ends in turn."""
    for mark in marks:
        text = text.strip(mark)
    return text


def parse_choice(response: str, choices: Sequence[str], options: Mapping[str, str]) -> str | None:
    """Return the option that a response names, the last one if it names several; ``None`` if unparsed."""
    text = f" {strip_each(response)} "
    for form in ("({})", " {} "):
        found = [choice for choice in choices if form.format(choice) in text]
        if found:
            return max(found, key=lambda choice: text.rfind(form.format(choice)))
    if len(text.split()) > MIN_WORDS:
        lowered = text.lower()
        found = [name for name, option in options.items() if option.lower() in lowered]
        if found:
            return max(found, key=lambda name: lowered.rfind(options[name].lower()))
    return None


def parse_choice_lmms_eval(
    response: str, choices: Sequence[str], options: Mapping[str, str]
) -> str | None:
    """As :func:`parse_choice`, in lmms-eval: a letter also counts at the end of a word, and before a period.

    Of several letters without brackets the last one that stands alone is returned, else the first one.
    """
    text = f" {strip_each(response)} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [choice for choice in choices if form.format(choice) in text]
        if found:
            return max(found, key=lambda choice: text.rfind(place.format(choice)))
    return parse_choice(response, (), options)


def parse_choice_internvl(
    response: str, choices: Sequence[str], options: Mapping[str, str]
) -> str | None:
    """The first letter of the response, or the first option whose text it holds, as in InternVL."""
    text = response.strip()
    if text[:1] in options:
        return text[:1]
    return next(
        (name for name, option in options.items() if len(text) > 1 and option in text), None
    )


PARSERS: dict[str, Callable[[str, Sequence[str], Mapping[str, str]], str | None]] = {
    "official": parse_choice,
    "lmms_eval": parse_choice_lmms_eval,
    "internvl": parse_choice_internvl,
}
"""How the letter of an option is read in a response, by the protocol."""


def normalise(text: str) -> list[str | float]:
    """A number, or lower-case text; a single letter is padded so that it cannot match inside a word."""
    text = text.strip()
    number = number_of(text)
    if number is not None:
        return [number]
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def parse_open(response: str) -> list[str | float]:
    """The texts and numbers that an open response may mean, without duplicates."""
    # The official code lowers the case before it splits at capitals, so that only newlines split the text.
    text = response.strip().strip(".").lower()
    phrases = key_phrases(text, text.split("\n"), INDICATORS)
    numbers = [number for phrase in phrases for number in all_numbers(phrase, GROUPED, SIMPLE)]
    parsed = [one for candidate in [*phrases, *numbers] for one in normalise(candidate)]
    return list(dict.fromkeys(parsed))


def choice_correct(answer: str | Sequence[str], parsed: str | None) -> bool:
    """Whether the parsed option is the answer, or one of the answers."""
    return parsed == answer if isinstance(answer, str) else parsed in list(answer)


def open_correct(answer: str | Sequence[str], parsed: Sequence[str | float]) -> bool:
    """Whether one of the parsed texts or numbers holds one of the answers."""
    answers = [answer] if isinstance(answer, str) else answer
    return holds_answer(parsed, [one for text in answers for one in normalise(text)])


@dataclass(frozen=True)
class MMMUSample:
    """A question with its answer and the response; ``options`` is empty for an open question.

    An empty ``subject`` becomes the one that the id names: validation_Art_Theory_3 is of Art_Theory.
    """

    id: str
    answer: str | Sequence[str]
    response: str
    options: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""

    def __post_init__(self) -> None:
        if not self.subject:
            object.__setattr__(self, "subject", "_".join(self.id.split("_")[1:-1]))


@dataclass
class MMMUScore:
    """Accuracy over all samples, of each subject and domain, and the ids of responses without a rule."""

    accuracy: float
    correct: dict[str, bool]
    subjects: dict[str, float]
    domains: dict[str, float]
    unparsed: list[str]


def score_mmmu(
    samples: Iterable[MMMUSample],
    *,
    official_random_seed: int | None = None,
    parser: str = "official",
) -> MMMUScore:
    """Parse and score samples; within a subject in the order given. ``parser`` is one of ``PARSERS``."""
    draw = None if official_random_seed is None else random.Random(official_random_seed)
    correct: dict[str, bool] = {}
    unparsed: list[str] = []
    subjects: dict[str, list[bool]] = {}
    for sample in sorted(samples, key=lambda one: one.subject):
        if sample.options:
            choices = list(sample.options)
            parsed = PARSERS[parser](sample.response, choices, sample.options)
            if parsed is None:
                unparsed.append(sample.id)
                parsed = draw.choice(choices) if draw else None
            hit = choice_correct(sample.answer, parsed)
        else:
            hit = open_correct(sample.answer, parse_open(sample.response))
        correct[sample.id] = hit
        subjects.setdefault(sample.subject, []).append(hit)
    hits = [hit for of_subject in subjects.values() for hit in of_subject]
    return MMMUScore(
        accuracy=sum(hits) / len(hits) if hits else 0.0,
        correct=correct,
        subjects={name: sum(found) / len(found) for name, found in subjects.items()},
        domains=by_domain({name: (sum(found), len(found)) for name, found in subjects.items()}),
        unparsed=unparsed,
    )
