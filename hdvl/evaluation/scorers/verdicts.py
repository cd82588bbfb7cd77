"""Scorers of yes-or-no questions, OCRBench, MathVista and captions."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hdvl.evaluation.metrics.bleu import bleu
from hdvl.evaluation.metrics.caption_tokens import tokenize_captions
from hdvl.evaluation.metrics.cider import cider_d
from hdvl.evaluation.metrics.joining import listed
from hdvl.evaluation.metrics.mathvista import mathvista_correct, quick_extraction
from hdvl.evaluation.metrics.mme import (
    COGNITION,
    PERCEPTION,
    parse_mme,
    parse_mme_lmms_eval,
    score_mme,
)
from hdvl.evaluation.metrics.ocrbench import OCRBenchItem, ocrbench_hit, score_ocrbench
from hdvl.evaluation.metrics.pope import PopeScore, parse_pope, score_pope
from hdvl.evaluation.metrics.rouge import mean_rouge_l
from hdvl.evaluation.metrics.vlmevalkit_ratings import (
    HallusionRow,
    hallusion_rating,
    mme_task,
    pope_rating,
)
from hdvl.evaluation.metrics.yes_no import extract_yes_no
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.conversions import internvl_mme_answer
from hdvl.evaluation.scorers.mathvista_problem import problem_of
from hdvl.evaluation.scores import (
    Resampling,
    Scores,
    category_tables,
    mean_scores,
    ratio,
    sums_by_group,
)


def _by(samples: Sequence[Sample], kind: str) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.categories.get(kind, ""), []).append(sample)
    return groups


MME_RULES: dict[str, Callable[[str], str]] = {
    "official": parse_mme,
    "internvl": lambda text: parse_mme(internvl_mme_answer(text)),
    "lmms_eval": parse_mme_lmms_eval,
    "vlmevalkit": lambda text: extract_yes_no(text).lower(),
}
"""How an answer is read as yes or no, by the protocol."""
MME_BY_IMAGE = ("lmms_eval", "vlmevalkit")
"""Protocols that group the questions by their image; the official script pairs neighbouring lines."""


def mme_scores(
    samples: Sequence[Sample], answers: Mapping[str, str], *, rule: str = "official"
) -> Scores:
    """MME: perception and cognition, the sums of the scores of their tasks.

    Args:
        samples: two questions for each image, one after the other. An image with one question is left out.
        answers: the answer to each.
        rule: one of ``MME_RULES``.
    """
    if rule not in MME_RULES:
        raise ValueError(f"rule must be one of {', '.join(MME_RULES)}, got {rule!r}")
    questions = Counter(one.group for one in samples)
    alone = [image for image, count in questions.items() if count == 1]
    samples = [one for one in samples if questions[one.group] > 1]
    if not samples:
        raise ValueError("MME needs both questions of an image, got one for each image")
    groups = _by(samples, "task")
    read = {one.id: MME_RULES[rule](answers[one.id]) for one in samples}
    correct = {one.id: float(read[one.id] == one.answer.lower()) for one in samples}
    if rule in MME_BY_IMAGE:
        tasks = {
            name: mme_task([(one.group, bool(correct[one.id])) for one in group])
            for name, group in groups.items()
        }
    else:
        # parse_mme leaves "yes" and "no" as they are, and reads "other" as "other".
        rows = {
            name: [(one.group, one.question, one.answer, read[one.id]) for one in group]
            for name, group in groups.items()
        }
        tasks = {name: task.score for name, task in score_mme(rows).tasks.items()}
    total = {
        "perception": sum(tasks[name] for name in tasks if name in PERCEPTION),
        "cognition": sum(tasks[name] for name in tasks if name not in PERCEPTION),
    }
    scores = Scores("perception + cognition", sum(total.values()), total, correct)
    scores.tables["task"] = tasks
    scores.resampling = _mme_resampling(groups, correct)
    scores.parsed = dict(read)
    scores.unparsed = [name for name, said in read.items() if said not in ("yes", "no")]
    scores.notes = _mme_notes(groups, set(scores.unparsed), rule)
    if alone:
        scores.notes.append(f"images with one question, which are left out: {listed(alone)}")
    return scores


def _mme_notes(groups: Mapping[str, Sequence[Sample]], unparsed: set[str], rule: str) -> list[str]:
    missing = [name for name in (*PERCEPTION, *COGNITION) if name not in groups]
    unread = [name for name, group in groups.items() if unparsed.issuperset(o.id for o in group)]
    notes = [f"tasks that were not given: {', '.join(missing)}"] * bool(missing)
    if unread and rule == "official":
        notes.append(f"the official script fails, as no answer is yes or no: {', '.join(unread)}")
    return notes


def _mme_resampling(
    groups: Mapping[str, Sequence[Sample]], correct: Mapping[str, float]
) -> Resampling:
    """Images drawn within each task: an image adds the share of right answers, and 1 if all are right."""
    data = []
    for group in groups.values():
        hits, counts = sums_by_group(group, [correct, {one.id: 1.0 for one in group}])
        data.append(100 * (hits / counts + (hits == counts)))
    return Resampling(
        tuple(data), lambda *drawn, axis=-1: sum(one.mean(axis) for one in drawn), paired=False
    )


def _f1_resampling(
    groups: Sequence[Sequence[Sample]], said_yes: Mapping[str, bool], samples: Sequence[Sample]
) -> Resampling:
    """Images drawn from all questions; the mean over ``groups`` of the F1 of the answer yes."""
    columns: list[Mapping[str, float]] = []
    for group in groups:
        truth = {one.id: one.answer.lower() == "yes" for one in group}
        columns.append({name: 2.0 * (said_yes[name] and yes) for name, yes in truth.items()})
        columns.append({name: float(said_yes[name]) + yes for name, yes in truth.items()})
    data = sums_by_group(samples, columns)

    def statistic(*sums: Any, axis: int = -1) -> Any:
        pairs = zip(sums[::2], sums[1::2], strict=True)
        return sum(ratio()(above, below, axis) for above, below in pairs) / len(groups)

    return Resampling(data, statistic)


def _pope_values(found: PopeScore) -> dict[str, float]:
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    return {name: 100 * float(getattr(found, name)) for name in names}


def pope_scores(
    samples: Sequence[Sample], answers: Mapping[str, str], *, rule: str = "official"
) -> Scores:
    """POPE: F1 averaged over its splits (official, LLaVA), or of all questions (VLMEvalKit, lmms-eval)."""
    if rule not in ("official", "vlmevalkit", "lmms_eval"):
        raise ValueError(f"rule must be official, vlmevalkit or lmms_eval, got {rule!r}")
    if rule == "lmms_eval":
        return _pope_lmms_eval(samples, answers)
    if rule == "vlmevalkit":
        read = {one.id: extract_yes_no(answers[one.id]) for one in samples}
        rating = pope_rating([(read[one.id], one.answer.capitalize()) for one in samples])
        values = {
            "accuracy": rating.accuracy,
            "precision": rating.precision,
            "recall": rating.recall,
        }
        correct = {one.id: float(read[one.id] == one.answer.capitalize()) for one in samples}
        unparsed = [name for name, said in read.items() if said == "Unknown"]
        tables = category_tables(samples, correct)
        said_yes = {name: said == "Yes" for name, said in read.items()}
        scores = Scores("F1", rating.f1, values, correct, tables=tables, unparsed=unparsed)
        scores.resampling = _f1_resampling([samples], said_yes, samples)
        return scores
    heard = {one.id: parse_pope(answers[one.id]) for one in samples}
    correct = {one.id: float(heard[one.id] == one.answer) for one in samples}
    groups = _by(samples, "split")
    found = {
        name: score_pope([answers[one.id] for one in group], [one.answer for one in group])
        for name, group in groups.items()
    }
    tables = {name: _pope_values(score) for name, score in found.items()}
    whole = score_pope([answers[one.id] for one in samples], [one.answer for one in samples])
    mean = sum(one["f1"] for one in tables.values()) / len(tables)
    notes = [
        f"{name}: {', '.join(score.undefined)} is a division by zero in the official script, and 0 here"
        for name, score in found.items()
        if score.undefined
    ]
    scores = Scores("mean F1", mean, _pope_values(whole), correct, tables=tables, notes=notes)
    said_yes = {name: said == "yes" for name, said in heard.items()}
    scores.resampling = _f1_resampling(list(groups.values()), said_yes, samples)
    return scores


def _pope_lmms_eval(samples: Sequence[Sample], answers: Mapping[str, str]) -> Scores:
    """POPE as lmms-eval scores it: an answer other than "yes" and "no" alone is wrong, and neither of them.

    Such an answer counts neither for precision nor for recall, and ``yes_ratio`` is that of the truth.
    """
    read = {one.id: answers[one.id].lower().strip() for one in samples}
    truth = {one.id: one.answer.lower().strip() for one in samples}
    correct = {name: float(read[name] == label) for name, label in truth.items()}
    pairs = Counter((read[name], label) for name, label in truth.items())
    hits = pairs["yes", "yes"]
    said, true = hits + pairs["yes", "no"], hits + pairs["no", "yes"]
    precision, recall = hits / max(1, said), hits / max(1, true)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    positive = list(truth.values()).count("yes") / len(truth)
    values = {"precision": precision, "recall": recall, "f1": f1, "yes_ratio": positive}
    scores = mean_scores("accuracy", samples, correct)
    scores.values |= {name: 100 * value for name, value in values.items()}
    scores.unparsed = [name for name, text in read.items() if text not in ("yes", "no")]
    return scores


def hallusion_scores(samples: Sequence[Sample], answers: Mapping[str, str]) -> Scores:
    """HallusionBench without a judge, as VLMEvalKit scores it: the questions with a figure, by yes or no."""
    read = {one.id: extract_yes_no(answers[one.id]) for one in samples}
    correct = {one.id: float(read[one.id] == one.answer) for one in samples}
    rows = [
        HallusionRow(
            str(one.extra["category"]),
            str(one.extra["subcategory"]),
            str(one.extra["set_id"]),
            str(one.extra["figure_id"]),
            str(one.extra["question_id"]),
            bool(correct[one.id]),
        )
        for one in samples
    ]
    found = hallusion_rating(rows)
    scores = mean_scores("aAcc", samples, correct)
    scores.values |= {"fAcc": found.figure_accuracy, "qAcc": found.question_accuracy}
    scores.unparsed = [name for name, said in read.items() if said == "Unknown"]
    return scores


def ocrbench_scores(
    samples: Sequence[Sample], answers: Mapping[str, str], *, fold_width: bool = False
) -> Scores:
    """OCRBench: the number of hits, which is out of 1,000 for the whole benchmark.

    Args:
        samples: the questions.
        answers: the answer to each.
        fold_width: read full-width letters as ASCII, as lmms-eval does.
    """
    items = [
        OCRBenchItem(
            one.categories.get("dataset", ""),
            one.categories.get("type", ""),
            list(one.accepted),
            answers[one.id],
            fold_width,
        )
        for one in samples
    ]
    found = score_ocrbench(items)
    correct = {
        one.id: float(
            ocrbench_hit(item.dataset, item.answers, answers[one.id], fold_width=fold_width)
        )
        for one, item in zip(samples, items, strict=True)
    }
    scores = mean_scores("hits", samples, correct, scale=float(len(samples)))
    scores.tables["group"] = {name: float(hits) for name, hits in found.groups.items()}
    return scores


def mathvista_scores(samples: Sequence[Sample], answers: Mapping[str, str]) -> Scores:
    """MathVista without a judge: only answers that the quick rules can extract are read."""
    correct, unparsed = dict[str, float](), list[str]()
    for one in samples:
        problem = problem_of(one)
        extraction = quick_extraction(answers[one.id], problem)
        if extraction is None:
            unparsed.append(one.id)
        correct[one.id] = float(extraction is not None and mathvista_correct(extraction, problem))
    scores = mean_scores("accuracy", samples, correct, unparsed=unparsed)
    scores.notes.append(
        f"{len(unparsed)} answers need a judge to be extracted, and count as wrong; the official score "
        "extracts them with a language model"
    )
    return scores


def caption_scores(samples: Sequence[Sample], answers: Mapping[str, str]) -> Scores:
    """CIDEr-D, BLEU and ROUGE-L times 100; for each domain of NoCaps too, computed on its images only."""
    names = [one.id for one in samples]
    given = tokenize_captions([answers[name] for name in names])
    flat = [(one.id, text) for one in samples for text in one.accepted]
    wanted = tokenize_captions([text for _, text in flat])
    predictions = dict(zip(names, given.captions, strict=True))
    references: dict[str, list[str]] = {}
    for (name, _), text in zip(flat, wanted.captions, strict=True):
        references.setdefault(name, []).append(text)
    found = cider_d(predictions, references)
    values = {f"BLEU-{n}": 100 * v for n, v in enumerate(bleu(predictions, references), 1)}
    values["ROUGE-L"] = 100 * mean_rouge_l(predictions, references)
    scores = Scores("CIDEr-D", 100 * found.score, values)
    scores.correct = dict(zip(names, found.per_image, strict=True))
    # The weights of words depend on all images; an image that is drawn keeps the score that it has by them.
    data = sums_by_group(samples, [scores.correct, dict.fromkeys(names, 1.0)])
    scores.resampling = Resampling(data, ratio())
    scores.notes = [f"tokens of {given.tokenizer}"]
    domains = {
        name: cider_d(
            {one.id: predictions[one.id] for one in group},
            {one.id: references[one.id] for one in group},
        )
        for name, group in _by(samples, "domain").items()
        if name
    }
    if domains:
        scores.tables["domain"] = {name: 100 * one.score for name, one in domains.items()}
    return scores
