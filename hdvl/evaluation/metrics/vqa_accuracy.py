"""VQA accuracy: min(1, matching answers / 3) of nine of ten annotators, averaged over the one left out.

``vqa_accuracy`` is the official scorer of VQA v2 and OK-VQA, ``m4c_accuracy`` that of TextVQA, and
``vlmevalkit_accuracy`` that of VLMEvalKit. All return a number between 0 and 1.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from hdvl.evaluation.metrics.vqa_text import (
    clean_space,
    normalised,
    normalised_m4c,
    normalised_vlmevalkit,
)

REQUIRED_MATCHES = 3  # number of other annotators who must agree for the full score


@cache
def leave_one_out(matches: int, people: int) -> float:
    """Return the mean over annotators of min(1, matches among the others / 3)."""
    score_if_matching = min(
        1, (matches - 1) / REQUIRED_MATCHES
    )  # one of the annotators who agree is left out
    score_otherwise = min(1, matches / REQUIRED_MATCHES)
    return sum([score_if_matching] * matches + [score_otherwise] * (people - matches)) / people


def vqa_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Return the accuracy of VQA v2 and OK-VQA, with each answer left out once, by its position.

    If all answers are the same text, nothing is normalised, so that "Red" does not match "red".
    """
    references = list(map(clean_space, answers))
    given = clean_space(prediction)
    if len(set(references)) > 1:
        references = list(map(normalised, references))
        given = normalised(given)
    return leave_one_out(references.count(given), len(references))


def vqa_accuracy_of_records(records: Sequence[Mapping[str, object]], prediction: str) -> float:
    """Like :func:`vqa_accuracy` for the records of an annotation file, with the official way of leaving out.

    In each turn all records that equal the one left out are left out too. Without an ``answer_id``
    several records can be equal, which lowers the accuracy.
    """
    answers = [clean_space(str(record["answer"])) for record in records]
    given = clean_space(prediction)
    if len(set(answers)) > 1:
        answers = [normalised(answer) for answer in answers]
        given = normalised(given)
    kept = [{**record, "answer": answer} for record, answer in zip(records, answers, strict=True)]
    shares = []
    for left_out in kept:
        matching = sum(one != left_out and one["answer"] == given for one in kept)
        shares.append(min(1, matching / REQUIRED_MATCHES))
    return sum(shares) / len(shares)


def m4c_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Accuracy of TextVQA by the M4C evaluator: both sides are always normalised."""
    if len(answers) != 10:
        raise ValueError(f"TextVQA needs ten answers for each question, got {len(answers)}")
    references = list(map(normalised_m4c, answers))
    return leave_one_out(references.count(normalised_m4c(prediction)), len(references))


def lmms_eval_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Accuracy of VQA v2 in lmms-eval: the official rules, with both sides always normalised."""
    references = [normalised(clean_space(answer)) for answer in answers]
    return leave_one_out(references.count(normalised(clean_space(prediction))), len(references))


def vlmevalkit_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Accuracy of VLMEvalKit's ``vqa_score``."""
    references = [normalised_vlmevalkit(answer) for answer in answers]
    return leave_one_out(references.count(normalised_vlmevalkit(prediction)), len(references))


@dataclass
class VQAMeans:
    """Running means in per cent over all questions and for each question type and answer type."""

    digits: int = 2
    totals: dict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(lambda: [0.0, 0])
    )

    def add(self, accuracy: float, question_type: str = "", answer_type: str = "") -> None:
        """Count one question."""
        kinds = (("overall", ""), ("question_type", question_type), ("answer_type", answer_type))
        for key in kinds:
            total = self.totals[key]
            total[0] += accuracy
            total[1] += 1

    def table(self, kind: str = "overall") -> dict[str, float]:
        """Per cent for each type of ``kind``, rounded as the official code rounds."""
        found = {name: total for (group, name), total in self.totals.items() if group == kind}
        return {
            name: round(100 * total / count, self.digits) for name, (total, count) in found.items()
        }


def vqa_means(rows: Iterable[tuple[Sequence[str], str, str, str]]) -> VQAMeans:
    """Means of (answers, prediction, question type, answer type) rows, read one at a time."""
    means = VQAMeans()
    for answers, prediction, question_type, answer_type in rows:
        means.add(vqa_accuracy(answers, prediction), question_type, answer_type)
    return means
