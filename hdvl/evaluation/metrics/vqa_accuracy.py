"""VQA accuracy: an answer that three of ten people gave is right, averaged over leaving each one out.

``vqa_accuracy`` is the official scorer of VQA v2 and OK-VQA, ``m4c_accuracy`` the one of TextVQA,
``vlmevalkit_accuracy`` that of VLMEvalKit. All return a share between 0 and 1.
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

ENOUGH = 3  # other people who must agree for a full score


@cache
def leave_one_out(matches: int, people: int) -> float:
    """Mean over ``people`` of min(1, agreeing others / 3), when ``matches`` of them agree."""
    mine = min(1, (matches - 1) / ENOUGH)  # one of those who agree is left out
    rest = min(1, matches / ENOUGH)
    return sum([mine] * matches + [rest] * (people - matches)) / people


def vqa_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Accuracy of VQA v2 and OK-VQA, one person left out at a time by position.

    When all answers are the same text neither side is normalised, so "Red" then misses "red".
    """
    truths = [clean_space(answer) for answer in answers]
    given = clean_space(prediction)
    if len(set(truths)) > 1:
        truths = [normalised(answer) for answer in truths]
        given = normalised(given)
    return leave_one_out(truths.count(given), len(truths))


def vqa_accuracy_of_records(records: Sequence[Mapping[str, object]], prediction: str) -> float:
    """The same from the records of an annotation file, left out as the official code does.

    It leaves out every record that equals the one in turn. Records that lack an ``answer_id`` can
    be equal, and the accuracy then falls.
    """
    answers = [clean_space(str(record["answer"])) for record in records]
    given = clean_space(prediction)
    if len(set(answers)) > 1:
        answers = [normalised(answer) for answer in answers]
        given = normalised(given)
    kept = [{**record, "answer": answer} for record, answer in zip(records, answers, strict=True)]
    shares = []
    for left_out in kept:
        agree = sum(one != left_out and one["answer"] == given for one in kept)
        shares.append(min(1, agree / ENOUGH))
    return sum(shares) / len(shares)


def m4c_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Accuracy of TextVQA by the M4C evaluator: both sides are always normalised."""
    if len(answers) != 10:
        raise ValueError(f"TextVQA needs ten answers for each question, got {len(answers)}")
    truths = [normalised_m4c(answer) for answer in answers]
    return leave_one_out(truths.count(normalised_m4c(prediction)), len(truths))


def lmms_eval_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Accuracy of lmms-eval's VQA v2: the official rules, and both sides are always normalised."""
    truths = [normalised(clean_space(answer)) for answer in answers]
    return leave_one_out(truths.count(normalised(clean_space(prediction))), len(truths))


def vlmevalkit_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Accuracy of VLMEvalKit's ``vqa_score``."""
    truths = [normalised_vlmevalkit(answer) for answer in answers]
    return leave_one_out(truths.count(normalised_vlmevalkit(prediction)), len(truths))


@dataclass
class VQAMeans:
    """Running means over all questions and over each question and answer type, in per cent."""

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
