"""Scorers of yes-or-no questions, OCRBench, MathVista, captions and boxes."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hdvl.evaluation.metrics.bleu import bleu
from hdvl.evaluation.metrics.boxes import box_iou, grit_refexp, refcoco_overlap
from hdvl.evaluation.metrics.caption_tokens import tokenize_captions
from hdvl.evaluation.metrics.cider import cider_d
from hdvl.evaluation.metrics.joining import listed
from hdvl.evaluation.metrics.mathvista import mathvista_correct, quick_extraction
from hdvl.evaluation.metrics.mme import PERCEPTION, parse_mme, score_mme
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
from hdvl.evaluation.scorers.mathvista_problem import problem_of
from hdvl.evaluation.scores import (
    Resampling,
    Scores,
    category_tables,
    mean_scores,
    ratio,
    sums_by_group,
)

INTERNVL_BOX = re.compile(
    r"\[\s*\[?" + r"\s*,\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]?\s*\]"
)


def _by(samples: Sequence[Sample], kind: str) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.categories.get(kind, ""), []).append(sample)
    return groups


def mme_scores(
    samples: Sequence[Sample], answers: Mapping[str, str], *, rule: str = "official"
) -> Scores:
    """MME: perception and cognition, the sums of the scores of their tasks.

    Args:
        samples: two questions for each image, one after the other.
        answers: the answer to each.
        rule: ``official`` reads the first four characters, ``vlmevalkit`` the whole answer.
    """
    if rule not in ("official", "vlmevalkit"):
        raise ValueError(f"rule must be official or vlmevalkit, got {rule!r}")
    groups = _by(samples, "task")
    read: dict[str, str] = {
        one.id: parse_mme(answers[one.id])
        if rule == "official"
        else extract_yes_no(answers[one.id]).lower()
        for one in samples
    }
    correct = {one.id: float(read[one.id] == one.answer.lower()) for one in samples}
    rows = {
        name: [(one.group, one.question, one.answer, answers[one.id]) for one in group]
        for name, group in groups.items()
    }
    found = score_mme(rows)
    if rule == "official":
        tasks = {name: task.score for name, task in found.tasks.items()}
    else:
        tasks = {
            name: mme_task([(one.group, bool(correct[one.id])) for one in group])
            for name, group in groups.items()
        }
    total = {
        "perception": sum(tasks[name] for name in tasks if name in PERCEPTION),
        "cognition": sum(tasks[name] for name in tasks if name not in PERCEPTION),
    }
    scores = Scores("perception + cognition", sum(total.values()), total, correct)
    scores.tables["task"] = tasks
    scores.resampling = _mme_resampling(groups, correct)
    scores.parsed = dict(read)
    scores.unparsed = [name for name, said in read.items() if said not in ("yes", "no")]
    if found.missing:
        scores.notes.append(f"tasks that were not given: {', '.join(found.missing)}")
    return scores


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
    """POPE: F1 averaged over its splits (official, LLaVA), or F1 of all questions (VLMEvalKit)."""
    if rule not in ("official", "vlmevalkit"):
        raise ValueError(f"rule must be official or vlmevalkit, got {rule!r}")
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


def ocrbench_scores(samples: Sequence[Sample], answers: Mapping[str, str]) -> Scores:
    """OCRBench: the number of hits, which is out of 1,000 for the whole benchmark."""
    items = [
        OCRBenchItem(
            one.categories.get("dataset", ""),
            one.categories.get("type", ""),
            list(one.answers),
            answers[one.id],
        )
        for one in samples
    ]
    found = score_ocrbench(items)
    correct = {
        one.id: float(ocrbench_hit(item.dataset, item.answers, answers[one.id]))
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
    flat = [(one.id, text) for one in samples for text in one.answers]
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


def box_scores(samples: Sequence[Sample], answers: Mapping[str, str], *, form: str) -> Scores:
    """Share of sentences whose first box overlaps the true one by half or more.

    Args:
        samples: ``extra`` has the true ``box`` in pixels, and ``width`` and ``height`` of the image.
        answers: the answer to each.
        form: how boxes are written: ``qwen_vl`` ``(x1,y1),(x2,y2)`` out of 999, ``internvl`` ``[[x1, y1, x2,
            y2]]`` out of 1000, ``pixels`` a JSON list of boxes in pixels of the image, ``grit`` the same with
            the rule of GRIT, for which exactly half is too little.
    """
    forms = {
        "qwen_vl": _qwen_hit,
        "internvl": _internvl_hit,
        "pixels": _pixel_hit,
        "grit": _grit_hit,
    }
    if form not in forms:
        raise ValueError(f"form must be one of {', '.join(forms)}, got {form!r}")
    correct, unparsed = dict[str, float](), list[str]()
    given = dict[str, Sequence[float]]()
    for one in samples:
        box, hit = forms[form](answers[one.id], one)
        correct[one.id] = float(hit)
        if box is None:
            unparsed.append(one.id)
        else:
            given[one.id] = box
    scores = mean_scores("accuracy at IoU 0.5", samples, correct, unparsed=unparsed)
    true = {one.id: one.extra["box"] for one in samples}
    scores.notes += _odd_boxes(samples, given, "predicted") + _odd_boxes(samples, true, "true")
    return scores


def _odd_boxes(
    samples: Sequence[Sample], boxes: Mapping[str, Sequence[float]], kind: str
) -> list[str]:
    """How many boxes have swapped corners or reach out of the image; they are scored all the same."""
    swapped, outside = list[str](), list[str]()
    for one in samples:
        if one.id not in boxes:
            continue
        x1, y1, x2, y2 = boxes[one.id]
        if x2 < x1 or y2 < y1:
            swapped.append(one.id)
        size = [float(one.extra.get(key, "inf")) for key in ("width", "height")]
        if min(x1, y1, x2, y2) < 0 or max(x1, x2) > size[0] or max(y1, y2) > size[1]:
            outside.append(one.id)
    said = {"corners are swapped": swapped, "reach out of the image": outside}
    return [
        f"{listed(ids)} {kind} boxes: {what}; scored as they are"
        for what, ids in said.items()
        if ids
    ]


Hit = tuple[Sequence[float] | None, bool]


def _qwen_hit(text: str, one: Sample) -> Hit:
    size = {key: int(one.extra[key]) for key in ("width", "height")}
    found = refcoco_overlap(text, one.extra["box"], **size)
    return (found.box if any(found.box) else None), found.correct


def _internvl_hit(text: str, one: Sample) -> Hit:
    found = INTERNVL_BOX.search(text)
    if found is None:
        return None, False
    sides = [one.extra["width"], one.extra["height"]] * 2
    box = [float(value) * side / 1000 for value, side in zip(found.groups(), sides, strict=True)]
    return box, _overlaps(box, one.extra["box"])


def _pixel_hit(text: str, one: Sample) -> Hit:
    boxes = json.loads(text)
    return (boxes[0], _overlaps(boxes[0], one.extra["box"])) if boxes else (None, False)


def _grit_hit(text: str, one: Sample) -> Hit:
    boxes = json.loads(text)
    return (boxes[0], bool(grit_refexp(boxes, [one.extra["box"]]))) if boxes else (None, False)


def _overlaps(box: Sequence[float], true: Sequence[float]) -> bool:
    import numpy as np

    with np.errstate(all="ignore"):  # a box without area gives nan, which is never enough
        return box_iou(np.asarray(box, np.float32), np.asarray(true, np.float32)) >= 0.5
