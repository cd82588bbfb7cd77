"""The scorer of boxes: RefCOCO, RefCOCO+, RefCOCOg and GRIT refexp."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from hdvl.evaluation.metrics.boxes import (
    MIN_IOU,
    box_iou,
    grit_refexp,
    holds_centre,
    internvl_box,
    plain_iou,
    refcoco_overlap,
    shares_box,
)
from hdvl.evaluation.metrics.joining import listed
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scores import Scores, mean_scores


def box_scores(samples: Sequence[Sample], answers: Mapping[str, str], *, form: str) -> Scores:
    """Share of sentences whose first box overlaps the true one by half or more.

    Args:
        samples: ``extra`` has the true ``box`` in pixels, and ``width`` and ``height`` of the image.
        answers: the answer to each.
        form: how boxes are written: ``qwen_vl`` ``(x1,y1),(x2,y2)`` out of 999, ``internvl`` ``[[x1, y1, x2,
            y2]]`` out of 1000 or 1, ``pixels`` a JSON list of boxes in pixels of the image, ``grit`` the same
            with the rule of GRIT, for which exactly half is too little.
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


THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def share_scores(samples: Sequence[Sample], answers: Mapping[str, str]) -> Scores:
    """Boxes as lmms-eval scores them: coordinates are shares of the sides of the image.

    Given are the mean overlap, the shares of overlaps of at least 0.1 to 0.9, and the share of boxes whose
    centre is in the true box. Where the official code divides by zero, the overlap is 0.
    """
    overlaps, centres = dict[str, float](), list[bool]()
    given, unparsed = dict[str, Sequence[float]](), list[str]()
    for one in samples:
        sides = [float(one.extra[key]) for key in ("width", "height")] * 2
        true = [value / side for value, side in zip(one.extra["box"], sides, strict=True)]
        box = shares_box(answers[one.id])
        overlaps[one.id] = plain_iou(true, box)
        centres.append(holds_centre(true, box))
        if any(box):
            given[one.id] = [value * side for value, side in zip(box, sides, strict=True)]
        else:
            unparsed.append(one.id)
    correct = {name: float(overlap >= MIN_IOU) for name, overlap in overlaps.items()}
    scores = mean_scores("accuracy at IoU 0.5", samples, correct, unparsed=unparsed)
    scores.values["mean IoU"] = 100 * sum(overlaps.values()) / len(overlaps)
    for threshold in THRESHOLDS:
        hits = sum(overlap >= threshold for overlap in overlaps.values())
        scores.values[f"accuracy at IoU {threshold}"] = 100 * hits / len(overlaps)
    scores.values["centre accuracy"] = 100 * sum(centres) / len(centres)
    scores.notes += _odd_boxes(samples, given, "predicted")
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
    box = internvl_box(text, width=int(one.extra["width"]), height=int(one.extra["height"]))
    return box, box is not None and _overlaps(box, one.extra["box"])


def _pixel_hit(text: str, one: Sample) -> Hit:
    boxes = _listed_boxes(text)
    return (boxes[0], _overlaps(boxes[0], one.extra["box"])) if boxes else (None, False)


def _grit_hit(text: str, one: Sample) -> Hit:
    boxes = _listed_boxes(text)
    return (boxes[0], bool(grit_refexp(boxes, [one.extra["box"]]))) if boxes else (None, False)


def _listed_boxes(text: str) -> list[list[float]]:
    """The boxes of a JSON list, of which the first counts; none if the text is of another form."""
    try:
        found = json.loads(text)
        first = [[float(side) for side in box] for box in found[:1]]
    except (ValueError, TypeError, KeyError):
        return []
    return first if all(len(box) == 4 for box in first) else []


def _overlaps(box: Sequence[float], true: Sequence[float]) -> bool:
    with np.errstate(all="ignore"):  # a box without area gives nan, which is never enough
        return box_iou(np.asarray(box, np.float32), np.asarray(true, np.float32)) >= MIN_IOU
