"""The report of a task: scores, their uncertainty, and the cost of images."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scores import Scores
from hdvl.evaluation.statistics import resampled_uncertainty, uncertainty
from hdvl.version import __version__

LIBRARIES = ("torch", "transformers", "numpy", "scipy", "rapidfuzz", "pillow")


def costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the answers took: means over their images, and counts over the answers.

    An image counts as reduced if its area was resized to less than 99 per cent of itself.
    """
    images = [image for row in rows for image in row.get("images", ())]
    count = max(1, len(images))
    areas = [
        image["resized"][0] * image["resized"][1] / max(1, image["size"][0] * image["size"][1])
        for image in images
    ]
    return {
        "questions": len(rows),
        "images": len(images),
        "tiles_per_image": sum(image["tiles"] for image in images) / count,
        "visual_tokens_per_image": sum(image["visual_tokens"] for image in images) / count,
        "reduced_images": sum(area < 0.99 for area in areas),
        "truncated_answers": sum(bool(row.get("truncated")) for row in rows),
    }


def task_summary(
    samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Any]], scores: Scores | None
) -> dict[str, Any]:
    """The part of a report that is about one task, as plain data.

    Args:
        samples: the questions.
        rows: the stored answers, by id.
        scores: their scores; ``None`` if there are none.
    """
    found: dict[str, Any] = {"questions": len(samples), "cost": costs(list(rows.values()))}
    if scores is None:
        return found
    found |= scores_fields(scores)
    if scores.scale is not None:
        found["uncertainty"] = asdict(uncertainty(samples, scores.correct, scale=scores.scale))
    elif scores.resampling is not None:
        found["uncertainty"] = asdict(resampled_uncertainty(scores.resampling))
    plain: dict[str, Any] = without_nan(found)
    return plain


def scores_fields(scores: Scores) -> dict[str, Any]:
    """The scores themselves, as plain data."""
    return {
        "metric": scores.metric,
        "score": scores.value,
        "values": scores.values,
        "tables": scores.tables,
        "unparsed": scores.unparsed,
        "notes": scores.notes,
    }


def without_nan(value: Any) -> Any:
    """A copy of plain data with ``None`` for each number that JSON cannot write."""
    if isinstance(value, Mapping):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """The versions of this package and of the libraries that answers and scores depend on."""
    found = {"hdvl": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def score_line(name: str, summary: Mapping[str, Any]) -> list[str]:
    """The row of a task in the table of scores: name, score with its error, and the cost of an image."""
    cost = summary["cost"]
    score, interval = "-", "-"
    if "score" in summary:
        score = f"{summary['score']:.2f}"
        around = summary.get("uncertainty") or {"standard_error": None, "low": None}
        if around["standard_error"] is not None:
            score += f" ± {around['standard_error']:.2f}"
        if around["low"] is not None:
            interval = f"{around['low']:.2f} to {around['high']:.2f}"
    return [
        name,
        str(summary.get("protocol", "")),
        str(summary.get("metric", "no score")),
        score,
        interval,
        str(summary["questions"]),
        f"{cost['tiles_per_image']:.1f}",
        f"{cost['visual_tokens_per_image']:.0f}",
        str(cost["reduced_images"]),
        str(cost["truncated_answers"]),
    ]


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the scores of a task: notes, the judge, and answers that were not parsed."""
    lines = list(summary.get("notes", ()))
    if "judge" in summary:
        judge = summary["judge"]
        lines.append(
            f"judge {judge['judge']}, words {judge['wording']}, {judge['replies']} replies, "
            f"{judge['unparsed']} of them could not be read"
        )
    if summary.get("unparsed"):
        lines.append(f"unparsed: {len(summary['unparsed'])} of {summary['questions']} questions")
    return lines


HEADS = [
    *("task", "protocol", "metric", "score", "95 % interval", "questions"),
    *("tiles/image", "tokens/image", "reduced", "truncated"),
]
