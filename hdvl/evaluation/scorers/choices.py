"""Scorers of multiple choice, pairs, cycles and circular evaluation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hdvl.evaluation.metrics.circular import ChoiceRow, score_circular
from hdvl.evaluation.metrics.cmmmu import CMMMUSample, score_cmmmu
from hdvl.evaluation.metrics.mmmu import PARSERS, MMMUSample, score_mmmu
from hdvl.evaluation.metrics.mmstar import mmstar_hit, score_mmstar
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.letters import RULES
from hdvl.evaluation.scores import Resampling, Scores, mean_scores, ratio, sums_by_group


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


def subcategory_scores(
    samples: Sequence[Sample], answers: Mapping[str, str], *, rule: str
) -> Scores:
    """MMStar in lmms-eval: the mean over its subcategories of their accuracies."""
    single = choice_scores(samples, answers, rule=rule)
    means = single.tables.get("l2-category", {})
    if not means:
        raise ValueError("MMStar of lmms-eval needs the column l2_category, the table has none")
    value = sum(means.values()) / len(means)
    values = {"mean of subcategories": value, "accuracy": single.value}
    groups = dict[str, list[float]]()
    for sample in samples:
        groups.setdefault(sample.categories["l2-category"], []).append(single.correct[sample.id])
    resampling = Resampling(
        tuple(np.array(one, float) for one in groups.values()),
        lambda *drawn, axis=-1: 100 * sum(one.mean(axis) for one in drawn) / len(drawn),
        paired=False,
        is_share=True,
    )
    name = "mean of subcategories"
    return replace(
        single, metric=name, value=value, values=values, scale=None, resampling=resampling
    )


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
        resampling=Resampling(
            (np.array(whole, float), np.ones(len(whole))), ratio(), is_share=True
        ),
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
        resampling=Resampling(data, statistic, is_share=True),
    )


def circular_scores(samples: Sequence[Sample], answers: Mapping[str, str]) -> Scores:
    """MMBench: a question counts if it is answered right in each rotation of its options."""
    named = next((one.id for one in samples if not one.id.isdigit()), None)
    if named is not None:
        raise ValueError(f"an index of MMBench must be a whole number, got {named!r}")
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
    rotations = Counter(row.question for row in rows)
    cut = [one for one in first if rotations[int(one.id)] < len(one.options)]
    if cut:
        scores.notes.append(
            f"{len(cut)} of {len(first)} questions have fewer rotations than options, such as {cut[0].id}; "
            "they are scored by those that are there, which is easier"
        )
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
    parser: str = "official",
) -> Scores:
    """MMMU by its own parser.

    Args:
        samples: the questions; those without options are open.
        answers: the response to each.
        official_random_seed: draw the answers that cannot be parsed, as the official script does with 42.
        parser: how options are read in responses, one of :data:`~hdvl.evaluation.metrics.mmmu.PARSERS`.
    """
    if parser not in PARSERS:
        raise ValueError(f"parser must be one of {', '.join(PARSERS)}, got {parser!r}")
    found = score_mmmu(
        [
            MMMUSample(
                one.id,
                one.answer if len(one.answers) == 1 else list(one.answers),
                answers[one.id],
                one.options,
                one.categories.get("subject", ""),
            )
            for one in samples
        ],
        official_random_seed=official_random_seed,
        parser=parser,
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
    extracted: bool = False,
) -> Scores:
    """CMMMU by its own parser.

    Args:
        samples: the questions.
        answers: the response to each.
        official_random_seed: see :func:`mmmu_scores`.
        extracted: the answers were extracted from responses before, and are compared as they are: the
            official script does so with files whose rows have ``answer`` in place of ``response``.
    """
    found = score_cmmmu(
        [
            CMMMUSample(
                one.id,
                one.extra["kind"],
                one.answer,
                answers[one.id],
                one.options,
                one.categories.get("category", ""),
                extracted,
            )
            for one in samples
        ],
        official_random_seed=official_random_seed,
    )
    correct = {name: float(hit) for name, hit in found.correct.items()}
    return mean_scores("accuracy", samples, correct, unparsed=found.unparsed)
