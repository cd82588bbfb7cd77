"""Scorers of multiple choice: the rules that read a letter out of an answer, and circular evaluation."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hdvl.evaluation.metrics.circular import ChoiceRow, score_circular
from hdvl.evaluation.metrics.cmmmu import CMMMUSample, score_cmmmu
from hdvl.evaluation.metrics.mmmu import MMMUSample, score_mmmu
from hdvl.evaluation.metrics.mmstar import mmstar_hit, score_mmstar
from hdvl.evaluation.metrics.option_inference import can_infer
from hdvl.evaluation.metrics.scienceqa import FAILED, parse_scienceqa
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scores import Resampling, Scores, mean_scores, ratio, sums_by_group

PREFIXES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    # The official list lacks commas here, so that these are joined in pairs and remove nothing.
    *("The best option isThe correct option is", "Best answer:Best option:"),
)
LONG = 10  # words; a longer answer without a letter is not read


def exact_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The answer itself if it is a letter of an option, with white space around it at most."""
    return text.strip() if text.strip() in options else None


def bracketed_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The first ``(a)`` of the answer, or the answer itself if it is a letter; the case does not count."""
    found = re.search(r"\(([a-zA-Z])\)", text)
    letter = (found[1] if found else text.strip().rstrip(".")).upper()
    return letter if letter in options else None


def scienceqa_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that LLaVA's script reads."""
    index = parse_scienceqa(text, len(options))
    return None if index == FAILED else list(options)[index]


def mme_realworld_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that the script of MME-RealWorld reads: the first of A to E, wherever it stands."""
    text = text.strip()
    for prefix in PREFIXES:
        text = text.replace(prefix, "")
    found = re.search("[ABCDE]", text)
    if found:
        return found[0]
    if len(text.split()) > LONG:
        return None
    for letter, option in options.items():
        if text.lower() in f"({letter}) {option}".lower():
            return letter
    return None


LETTER_PATTERNS = (
    r"^([A-D])\s*[\.)\]]*",
    r"(?:THE\s+)?(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*(?:\.|\)|])",
    r"(?:^|\s)([A-D])(?:\s|$)",
)
"""What lmms-eval looks for in an answer to V*Bench, the first that is found counting."""


def vstar_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter from A to D that lmms-eval reads in an answer to V*Bench, in capitals."""
    said = text.strip().upper()
    for pattern in LETTER_PATTERNS:
        found = re.search(pattern, said)
        if found:
            return found[1]
    letters = re.findall("[A-D]", said)
    return letters[0] if len(letters) == 1 else None


RULES: dict[str, Callable[[str, Mapping[str, str]], str | None]] = {
    "vlmevalkit": lambda text, options: can_infer(text, options),
    "letter": exact_letter,
    "bracketed": bracketed_letter,
    "scienceqa": scienceqa_letter,
    "mme_realworld": mme_realworld_letter,
    "vstar": vstar_letter,
}


def choice_scores(samples: Sequence[Sample], answers: Mapping[str, str], *, rule: str) -> Scores:
    """Accuracy in per cent; an answer that the rule cannot read is wrong, and is listed.

    Raises:
        ValueError: there is no such rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    parsed = {one.id: RULES[rule](answers[one.id], one.options) for one in samples}
    correct = {one.id: float(parsed[one.id] == one.answer) for one in samples}
    unparsed = [name for name, letter in parsed.items() if letter is None]
    return mean_scores("accuracy", samples, correct, unparsed=unparsed, parsed=parsed)


def pair_scores(samples: Sequence[Sample], answers: Mapping[str, str], *, rule: str) -> Scores:
    """MMVP: the share of pairs whose two questions are both answered right, and the accuracy."""
    single = choice_scores(samples, answers, rule=rule)
    pairs: dict[str, list[float]] = {}
    for sample in samples:
        pairs.setdefault(str(sample.extra["pair"]), []).append(single.correct[sample.id])
    whole = [all(hits) for hits in pairs.values() if len(hits) == 2]
    notes = [f"{len(pairs) - len(whole)} pairs have one question only"] * (len(whole) < len(pairs))
    return Scores(
        "pair accuracy",
        100 * sum(whole) / len(whole) if whole else 0.0,
        {"accuracy": single.value},
        single.correct,
        resampling=Resampling((np.array(whole, float), np.ones(len(whole))), ratio()),
        unparsed=single.unparsed,
        parsed=single.parsed,
        notes=notes,
    )


def cycle_scores(
    samples: Sequence[Sample], answers: Mapping[str, str], *, rule: str = "vlmevalkit"
) -> Scores:
    """HR-Bench: the mean of the accuracies of its cycles, each with the options in another order."""
    return by_cycle(samples, choice_scores(samples, answers, rule=rule))


def by_cycle(samples: Sequence[Sample], scores: Scores) -> Scores:
    """``scores`` with the mean of the accuracies of the cycles in place of that of all questions."""
    cycles: dict[str, list[Sample]] = {}
    for sample in samples:
        cycles.setdefault(sample.categories.get("cycle", ""), []).append(sample)
    columns: list[Mapping[str, float]] = []
    for group in cycles.values():
        columns.append({one.id: scores.correct[one.id] for one in group})
        columns.append({one.id: 1.0 for one in group})

    def statistic(*sums: Any, axis: int = -1) -> Any:
        pairs = zip(sums[::2], sums[1::2], strict=True)
        return sum(ratio()(hits, counts, axis) for hits, counts in pairs) / len(cycles)

    data = sums_by_group(samples, columns)
    value = float(statistic(*data))
    values = {name: one for name, one in scores.values.items() if name != scores.metric}
    return replace(
        scores,
        value=value,
        values={scores.metric: value, **values},
        scale=None,
        resampling=Resampling(data, statistic),
    )


def circular_scores(samples: Sequence[Sample], answers: Mapping[str, str]) -> Scores:
    """MMBench: a question counts if it is answered right in each rotation of its options."""
    rows = [
        ChoiceRow(
            int(one.id),
            one.answer,
            answers[one.id],
            one.options,
            one.categories.get("category"),
            one.categories.get("l2-category"),
            one.categories.get("split", "none"),
        )
        for one in samples
    ]
    found = score_circular(rows)
    hits = {str(index): float(hit) for index, hit in found.hits.items()}
    first = [one for one in samples if one.id in hits]
    scores = mean_scores("circular accuracy", first, hits)
    vanilla = [row.correct for row in rows if str(row.index) in hits]
    scores.values["vanilla accuracy"] = 100 * sum(vanilla) / len(vanilla)
    scores.unparsed = [str(index) for index in found.unparsed]
    if found.orphans:
        scores.notes.append(f"{len(found.orphans)} rotations of questions that are not there")
    return scores


def mmstar_scores(samples: Sequence[Sample], answers: Mapping[str, str]) -> Scores:
    """MMStar by its own rule; the official constants of 250 and 1,500 questions give ``final``."""
    correct = {one.id: float(mmstar_hit(answers[one.id], one.answer)) for one in samples}
    scores = mean_scores("accuracy", samples, correct)
    rows = [
        (
            answers[one.id],
            one.answer,
            one.categories.get("category", ""),
            one.categories.get("l2-category", ""),
        )
        for one in samples
    ]
    scores.values["final of 1,500"] = 100 * score_mmstar(rows).final
    return scores


def mmmu_scores(
    samples: Sequence[Sample],
    answers: Mapping[str, str],
    *,
    official_random_seed: int | None = None,
) -> Scores:
    """MMMU by its own parser.

    Args:
        samples: the questions; those without options are open.
        answers: the response to each.
        official_random_seed: draw the answers that cannot be parsed, as the official script does with 42.
    """
    found = score_mmmu(
        [
            MMMUSample(
                one.id,
                one.answer if len(one.answers) == 1 else list(one.answers),
                answers[one.id],
                one.options,
            )
            for one in samples
        ],
        official_random_seed=official_random_seed,
    )
    correct = {name: float(hit) for name, hit in found.correct.items()}
    scores = mean_scores("accuracy", samples, correct, unparsed=found.unparsed)
    scores.tables["domain"] = {name: 100 * value for name, value in found.domains.items()}
    return scores


def cmmmu_scores(
    samples: Sequence[Sample],
    answers: Mapping[str, str],
    *,
    official_random_seed: int | None = None,
) -> Scores:
    """CMMMU by its own parser; see :func:`mmmu_scores`."""
    found = score_cmmmu(
        [
            CMMMUSample(
                one.id,
                one.extra["kind"],
                one.answer,
                answers[one.id],
                one.options,
                one.categories.get("category", ""),
            )
            for one in samples
        ],
        official_random_seed=official_random_seed,
    )
    correct = {name: float(hit) for name, hit in found.correct.items()}
    return mean_scores("accuracy", samples, correct, unparsed=found.unparsed)
