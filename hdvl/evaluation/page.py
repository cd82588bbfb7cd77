"""Pages about answers: tables, and questions with their images, tiles and boxes, filterable, in one file."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from hdvl.drawing import draw_boxes
from hdvl.evaluation.samples import ImageReference, Sample, image_bytes, image_name
from hdvl.files import write_text
from hdvl.html import STYLE, embedded
from hdvl.images import read_image
from hdvl.protocols import GroundedBox

LARGEST = 1024
"""Longer side of an image on a page, in pixels."""
BLUE, RED, GREEN = (31, 119, 180), (214, 39, 40), (44, 160, 44)


def write_page(
    path: Path,
    title: str,
    *,
    tables: Sequence[Mapping[str, Any]] = (),
    details: Sequence[Mapping[str, str]] = (),
    cards: Sequence[Mapping[str, Any]] = (),
    cards_title: str = "",
) -> Path:
    """Write one HTML file without outside assets. Needs Jinja2 (``pip install 'hdvl[evaluation]'``).

    Args:
        path: the file.
        title: the heading.
        tables: ``title``, ``heads`` and ``rows`` of each table.
        details: ``title`` and ``text`` of texts that can be opened.
        cards: see :func:`card`.
        cards_title: the heading of the cards.
    """
    from jinja2 import Environment

    source = files("hdvl.evaluation").joinpath("page.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True).from_string(source)
    groups = sorted({name for one in cards for name in one["groups"]})
    page = template.render(
        title=title,
        style=STYLE,
        tables=tables,
        details=details,
        cards=cards,
        cards_title=cards_title,
        groups=groups,
    )
    write_text(path, page)
    return path


def card(
    task: str, sample: Sample, given: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """A question with its images and the answers to it.

    Args:
        task: the name of the task.
        sample: the question.
        given: a name and the row of ``results.jsonl`` of each answer.
    """
    lines = [{"name": "accepted", "text": "; ".join(dict.fromkeys(sample.answers)), "kind": ""}]
    for name, row in given:
        score = row.get("score")
        kind = "" if score is None else "right" if score >= 1 else "wrong"
        said = "" if score is None else f"  ({score:.2f})"
        unread = ", could not be read" if row.get("unparsed") else ""
        lines.append({"name": name, "text": f"{row['answer']}{said}{unread}", "kind": kind})
        cost = [
            f"{one['size'][0]} x {one['size'][1]} px, {one['tiles']} tile{'s' * (one['tiles'] != 1)}, "
            f"{one['visual_tokens']} tokens"
            for one in row.get("images", ())
        ]
        lines.append({"name": "images", "text": "; ".join(cost), "kind": "numbers"})
    row = given[0][1]
    return {
        "title": f"{task} {sample.id}",
        "question": row.get("prompt") or sample.question,
        "groups": [task, *(f"{kind}: {name}" for kind, name in sample.categories.items())],
        "lines": lines,
        "images": [
            {"name": image_name(image), "src": embedded(drawn(image, number, sample, given))}
            for number, image in enumerate(sample.images)
        ],
    }


def drawn(
    image: ImageReference,
    number: int,
    sample: Sample,
    given: Sequence[tuple[str, Mapping[str, Any]]],
) -> Image.Image:
    """Image ``number`` with its tiles (blue), the boxes of the answers (red) and the true box (green)."""
    pixels = read_image(image_bytes(image))
    row = given[0][1]
    canvas = ImageDraw.Draw(pixels)
    shown = row.get("images", ())
    for box in shown[number].get("tile_boxes", ()) if number < len(shown) else ():
        canvas.rectangle(tuple(box), outline=BLUE, width=max(1, max(pixels.size) // 1000))
    if "box" in sample.extra:
        true = [GroundedBox(label="", box=tuple(sample.extra["box"]))]
        pixels = draw_boxes(pixels, true, colours=[GREEN])
    found = [
        GroundedBox(label=str(one["label"]), box=tuple(one["box"]))
        for _, answer in given
        for one in answer.get("boxes", ())
        if one["image"] == number
    ]
    pixels = draw_boxes(pixels, found, colours=[RED])
    pixels.thumbnail((LARGEST, LARGEST))
    return pixels


def protocol_details(summaries: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """The protocol of each task, to be opened."""
    return [
        {
            "title": f"{name}: protocol {one['protocol']} {one['protocol_hash']}, data, scores",
            "text": json.dumps(
                {
                    key: one[key]
                    for key in ("protocol_settings", "values", "tables", "data")
                    if key in one
                },
                indent=1,
                ensure_ascii=False,
            ),
        }
        for name, one in summaries.items()
    ]
