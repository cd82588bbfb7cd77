"""CMMMU: the rules of its three question types, and the accuracy of each category.

Two properties of the official code are kept. Judgements are searched for positive words first, and these
are contained in the negative ones, so that 不对 counts as 对. In the search for numbers only the Chinese
comma is a thousands separator. Responses for which the official code makes a random choice are unparsed
and wrong, unless ``official_random_seed=42`` repeats its choices.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hdvl.evaluation.metrics.answer_numbers import (
    all_numbers,
    holds_answer,
    key_phrases,
    number_of,
)
from hdvl.evaluation.metrics.mmmu import strip_each

Kind = Literal["选择", "填空", "判断"]  # choice, blank to fill, judgement
CATEGORY_FOLDERS = {
    "art_and_design": "艺术与设计",
    "business": "商业",
    "science": "科学",
    "health_and_medicine": "健康与医学",
    "humanities_and_social_sciences": "人文社会科学",
    "technology_and_engineering": "技术与工程",
}
"""Names of the categories by the folders of the repository, in the order of the official script."""
CATEGORIES = tuple(CATEGORY_FOLDERS.values())
CHOICES = ("A", "B", "C", "D")
BLANK_WORDS = (
    "是",
    "为",
    "所以",
    "等于",
    "方案",
    "选择",
    "正确答案",
    "因此",
    "最后",
    "答案",
    "结果",
    "=",
)
JUDGEMENT_WORDS = ("是", "为", "所以", "判断", "陈述", "说法", "表达", "答案", "结果")
POSITIVE = ("正确", "对", "准确", "肯定")
NEGATIVE = ("不对", "错误", "不正确", "不准确", "不合适", "否定", "错")
AMBIGUOUS = ("对错", "是否", "否正确", "或者", "正确性", "对不")
RIGHT, WRONG = "对", "错"
GROUPED = re.compile(r"-?\d{1,3}(?:，\d{3})+")
SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+)(?![eE][+-]?\d+)(?!，\d)")
LETTER = re.compile("[a-zA-Z]")


def parse_choice(
    response: str, options: Mapping[str, str], choices: Sequence[str] = CHOICES
) -> str | None:
    """The letters named most often, joined in alphabetic order; None if nothing is named."""
    text = f" {strip_each(response)} "
    named = Counter({choice: text.count(f"({choice})") for choice in choices})
    if not any(named.values()):
        named = Counter({choice: text.count(choice) for choice in choices})
    if not any(named.values()) and text.split():
        named = Counter({name: text.count(option) for name, option in options.items()})
    most = max(named.values(), default=0)
    return "".join(choice for choice in choices if named[choice] == most) if most else None


def sentences_of(text: str) -> list[str]:
    return re.split("。|\n", text)


def normalise(text: str, answer: str) -> list[str | float]:
    """A number, or the text unless it is much longer than the answer."""
    text = text.strip()
    number = number_of(text)
    if number is not None:
        return [number]
    too_long = len(text) > len(answer) + 20
    too_wordy = len(LETTER.findall(text)) > len(LETTER.findall(answer)) + 2
    return [] if too_long or too_wordy else [text]


def parse_blank(response: str, answer: str) -> list[str | float]:
    """The texts and numbers that a response to a blank may mean, without duplicates."""
    text = response.strip("。").strip()
    phrases = key_phrases(text, sentences_of(text), BLANK_WORDS)
    numbers = [number for phrase in phrases for number in all_numbers(phrase, GROUPED, SIMPLE)]
    parsed = [one for candidate in [*phrases, *numbers] for one in normalise(candidate, answer)]
    return list(dict.fromkeys(parsed))


def blank_correct(answer: str, parsed: Sequence[str | float]) -> bool:
    """Whether one of the parsed texts or numbers holds the answer."""
    return holds_answer(parsed, normalise(answer, answer))


def parse_judgement(response: str) -> list[str]:
    """The phrases of a response that may hold its judgement, without duplicates."""
    text = response.strip("。").strip()
    return list(dict.fromkeys(key_phrases(text, sentences_of(text), JUDGEMENT_WORDS)))


def judge(phrases: Iterable[str]) -> str | None:
    """对 or 错 by the majority of the phrases that are not ambiguous; None for a tie."""
    balance = 0
    for phrase in phrases:
        if any(word in phrase for word in AMBIGUOUS):
            continue
        if any(word in phrase for word in POSITIVE):
            balance += 1
        elif any(word in phrase for word in NEGATIVE):
            balance -= 1
    if balance == 0:
        return None
    return RIGHT if balance > 0 else WRONG


def given_answer_correct(kind: Kind, answer: str, given: str) -> bool:
    """Return whether an answer that was already extracted from the response is correct."""
    if kind != "填空":
        return given == answer
    return blank_correct(answer, normalise(given, answer))


@dataclass(frozen=True)
class CMMMUSample:
    """A question with its answer and the response.

    ``extracted``: the response is an answer that was extracted before, as in official files with ``answer``.
    """

    id: str
    kind: Kind
    answer: str
    response: str
    options: Mapping[str, str] = field(default_factory=dict)
    category: str = ""
    extracted: bool = False


@dataclass
class CMMMUScore:
    """Accuracy over all samples and of each category, and the ids of responses that no rule applies to."""

    accuracy: float
    correct: dict[str, bool]
    categories: dict[str, float]
    unparsed: list[str]


def choices_of(sample: CMMMUSample) -> tuple[str | None, tuple[str, ...]]:
    """Return the parsed answer of a choice or judgement, and the options of the official random choice."""
    if sample.kind == "选择":
        # For an empty response the official script makes no random choice.
        drawn = CHOICES if sample.response and sample.options else ()
        return parse_choice(sample.response, sample.options), drawn
    return judge(parse_judgement(sample.response)), (RIGHT, WRONG)


def score_cmmmu(
    samples: Iterable[CMMMUSample], *, official_random_seed: int | None = None
) -> CMMMUScore:
    """Parse and score samples, category after category as the official script does."""
    draw = None if official_random_seed is None else random.Random(official_random_seed)
    order = {name: place for place, name in enumerate(CATEGORIES)}
    correct: dict[str, bool] = {}
    unparsed: list[str] = []
    categories: dict[str, list[bool]] = {}
    for sample in sorted(samples, key=lambda one: order.get(one.category, len(order))):
        if sample.extracted:
            hit = given_answer_correct(sample.kind, sample.answer, sample.response)
        elif sample.kind == "填空":
            hit = blank_correct(sample.answer, parse_blank(sample.response, sample.answer))
        else:
            parsed, drawn = choices_of(sample)
            if parsed is None:
                unparsed.append(sample.id)
                parsed = draw.choice(drawn) if draw and drawn else None
            hit = parsed == sample.answer
        correct[sample.id] = hit
        categories.setdefault(sample.category, []).append(hit)
    hits = [hit for found in categories.values() for hit in found]
    return CMMMUScore(
        accuracy=sum(hits) / len(hits) if hits else 0.0,
        correct=correct,
        categories={name: sum(found) / len(found) for name, found in categories.items()},
        unparsed=unparsed,
    )
