"""Scorers of verdicts of a judge. An answer whose reply cannot be read is listed and left out of the means.

Where the official script counts such an answer all the same, that score is given too, as ``official``.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from hdvl.evaluation.judging.judging import Verdicts
from hdvl.evaluation.metrics.hallusionbench import (
    RIGHT,
    UNCERTAIN,
    WRONG,
    HallusionItem,
    score_hallusionbench,
)
from hdvl.evaluation.metrics.llava_bench import UNREAD, score_llava_bench
from hdvl.evaluation.metrics.mathvista import mathvista_correct, quick_extraction
from hdvl.evaluation.metrics.touchstone import Round, score_touchstone
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.choices import by_cycle
from hdvl.evaluation.scorers.mathvista_problem import problem_of
from hdvl.evaluation.scores import Resampling, Scores, mean_scores, ratio, sums_by_group

MODEL, REFERENCE = "model", "reference"


def readable(samples: Sequence[Sample], verdicts: Verdicts) -> list[Sample]:
    """The questions whose replies could all be read.

    Raises:
        ValueError: there is none.
    """
    unread = set(verdicts.unparsed)
    found = [one for one in samples if one.id not in unread]
    if not found:
        raise ValueError(
            f"none of the {len(samples)} replies of {verdicts.model} could be read; ask another judge"
        )
    return found


def mmvp_judged(
    samples: Sequence[Sample], answers: Mapping[str, str], *, verdicts: Verdicts
) -> Scores:
    """MMVP: the share of pairs whose two answers the judge calls right."""
    pairs: dict[str, list[Sample]] = {}
    for one in samples:
        pairs.setdefault(str(one.extra["pair"]), []).append(one)
    whole = [pair for pair in pairs.values() if len(pair) == 2]
    said = [[verdicts.first(one.id) for one in pair] for pair in whole]
    kept = np.array([all(one) for one in said if None not in one], float)
    if not len(kept):
        raise ValueError("MMVP needs a pair whose replies could be parsed, but there is none")
    scores = Scores("pair accuracy", 100 * float(kept.mean()))
    scores.correct = {one.id: float(verdicts.first(one.id)) for one in readable(samples, verdicts)}
    scores.values["official"] = 100 * sum(map(all, said)) / len(said)
    scores.resampling = Resampling((kept, np.ones(len(kept))), ratio(), is_share=True)
    scores.unparsed = list(verdicts.unparsed)
    return scores


def hrbench_judged(
    samples: Sequence[Sample], answers: Mapping[str, str], *, verdicts: Verdicts
) -> Scores:
    """HR-Bench: the mean over its cycles of the share of answers that the judge calls right."""
    kept = readable(samples, verdicts)
    correct = {one.id: float(verdicts.first(one.id)) for one in kept}
    scores = by_cycle(kept, mean_scores("accuracy", kept, correct, unparsed=verdicts.unparsed))
    every = {one.id: float(verdicts.first(one.id) or 0) for one in samples}
    official = by_cycle(samples, mean_scores("accuracy", samples, every))
    scores.values["official"] = official.value
    return scores


def hallusion_judged(
    samples: Sequence[Sample], answers: Mapping[str, str], *, verdicts: Verdicts
) -> Scores:
    """HallusionBench: accuracies of questions, of questions over all figures, and of figures.

    A reply without any of the expected words means that the answer is uncertain, as in the official script.
    Such answers are listed.
    """
    items = [_hallusion_item(one, verdicts.read[one.id]) for one in samples]
    found = score_hallusionbench(items)
    correct = {one.id: float(item.correct) for one, item in zip(samples, items, strict=True)}
    scores = mean_scores("aAcc", samples, correct, unparsed=verdicts.unparsed)
    shares = {
        "qAcc": found.pair_accuracy,
        "fAcc": found.figure_accuracy,
        "easy aAcc": found.easy_pairs,
        "hard aAcc": found.hard_pairs,
        "yes difference": found.yes_difference,
        "false positive ratio": found.false_positive_ratio,
    }
    scores.values |= {name: value for name, value in shares.items() if value is not None}
    scores.tables["cause of errors"] = {
        name: float(count) for name, count in found.item_causes.items()
    }
    return scores


def _hallusion_item(one: Sample, said: Sequence[str | None]) -> HallusionItem:
    reply, *agreement = (text or "" for text in said)
    code = WRONG if "incorrect" in reply else RIGHT if "correct" in reply else UNCERTAIN
    keys = ("category", "subcategory", "set_id", "figure_id", "question_id")
    category, subcategory, set_id, figure_id, question_id = (str(one.extra[key]) for key in keys)
    return HallusionItem(
        category,
        subcategory,
        set_id,
        figure_id,
        question_id,
        visual_input=int(one.extra["visual_input"]),
        truth=int(one.answer == "Yes"),
        code=code,
        same=any("same" in text for text in agreement),
    )


def llava_bench_judged(
    samples: Sequence[Sample], answers: Mapping[str, str], *, verdicts: Verdicts
) -> Scores:
    """LLaVA-Bench: the judge's scores of the model in per cent of those of the reference."""
    kept = readable(samples, verdicts)
    names = {one.id: one.categories["category"] for one in samples}
    found = score_llava_bench([(names[one.id], verdicts.first(one.id)) for one in kept])
    given = {one.id: verdicts.first(one.id) for one in kept}
    columns = [{name: pair[side] for name, pair in given.items()} for side in (1, 0)]
    whole = found["all"]
    scores = Scores("relative score", whole.relative or 0.0)
    scores.values |= {"model times 10": whole.model, "reference times 10": whole.reference}
    scores.correct = {name: pair[1] / 10 for name, pair in given.items()}
    relatives = {name: one.relative for name, one in found.items() if name != "all"}
    scores.tables["category"] = {name: one for name, one in relatives.items() if one is not None}
    scores.resampling = Resampling(sums_by_group(kept, columns), ratio())
    scores.unparsed = list(verdicts.unparsed)
    if verdicts.unparsed:
        every = [(names[one.id], verdicts.first(one.id) or UNREAD) for one in samples]
        scores.values["official"] = score_llava_bench(every)["all"].relative or 0.0
    return scores


def touchstone_judged(
    samples: Sequence[Sample], answers: Mapping[str, str], *, verdicts: Verdicts
) -> Scores:
    """TouchStone: 100 times the mean of the scores of both rounds; unreadable rounds are left out."""
    rows, totals, counts = [], dict[str, float](), dict[str, float]()
    for one in samples:
        first, second = verdicts.read[one.id]
        rounds = [
            Round((REFERENCE, MODEL), first or (0, 0), first is None),
            Round((MODEL, REFERENCE), second or (0, 0), second is None),
        ]
        rows.append((one.categories["category"], rounds))
        given = [pair[side] for pair, side in ((first, 1), (second, 0)) if pair is not None]
        totals[one.id], counts[one.id] = sum(given), float(len(given))
    found = score_touchstone(rows)
    if MODEL not in found.overall:
        raise ValueError(
            f"none of the replies of {verdicts.model} could be read; ask another judge"
        )
    scores = Scores("score", found.overall[MODEL], {"reference": found.overall[REFERENCE]})
    scores.correct = {name: totals[name] / counts[name] / 10 for name in totals if counts[name]}
    scores.tables["category"] = {name: one[MODEL] for name, one in found.categories.items()}
    scores.resampling = Resampling(sums_by_group(samples, [totals, counts]), ratio())
    scores.unparsed = list(verdicts.unparsed)
    if found.failed:
        scores.notes.append(f"{found.failed} rounds could not be read and count for neither answer")
    return scores


def mm_vet_judged(
    samples: Sequence[Sample], answers: Mapping[str, str], *, verdicts: Verdicts
) -> Scores:
    """MM-Vet: the mean of the judge's scores times 100, for each capability and each set of them."""
    kept = readable(samples, verdicts)
    correct = {one.id: float(verdicts.first(one.id)) for one in kept}
    scores = mean_scores("score", kept, correct, unparsed=verdicts.unparsed)
    groups: dict[str, list[float]] = {}
    for one in kept:
        for name in one.categories["capabilities"].split(","):
            groups.setdefault(name, []).append(correct[one.id])
    scores.tables["capability"] = {
        name: 100 * sum(found) / len(found) for name, found in sorted(groups.items())
    }
    scores.values["official"] = 100 * sum(correct.values()) / len(samples)
    return scores


def mathvista_judged(
    samples: Sequence[Sample], answers: Mapping[str, str], *, verdicts: Verdicts
) -> Scores:
    """MathVista: answers that the quick rules or the judge extracted. One without an extraction is wrong."""
    correct, parsed = dict[str, float](), dict[str, str | None]()
    for one in samples:
        problem = problem_of(one)
        extraction = quick_extraction(answers[one.id], problem)
        if extraction is None:
            extraction = verdicts.first(one.id)
        parsed[one.id] = extraction
        correct[one.id] = float(extraction is not None and mathvista_correct(extraction, problem))
    scores = mean_scores(
        "accuracy", samples, correct, unparsed=list(verdicts.unparsed), parsed=parsed
    )
    scores.notes.append(f"the judge extracted {len(verdicts.read)} answers")
    return scores
