"""Outcomes as a table for the terminal, and as an HTML file with embedded images."""

import html
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hdvl.drawing import draw_boxes, draw_tiles
from hdvl.html import embedded, write_html
from hdvl.inference.answer import corners
from hdvl.inference.cases import Outcome
from hdvl.protocols import GroundedBox

HEAD = ("image", "question", "answer", "truth", "", "tiles", "tokens", "seconds")
WIDTHS = (18, 34, 30, 30, 5, 5, 6, 7)
RED, GREEN = (214, 39, 40), (44, 160, 44)
TRUTH_GAP = 3
"""The gap of the green frame, which lies around the red one then, so that both are seen."""


def cells(outcome: Outcome) -> tuple[str, ...]:
    """Return the cells of one outcome."""
    case, numbers = outcome.case, outcome.answer.numbers
    return (
        ", ".join(path.name for path in case.images),
        case.question,
        outcome.answer.readable,
        case.truth if case.box is None else f"{case.truth} {corners(GroundedBox('', case.box))}",
        "right" if outcome.right else "WRONG",
        str(numbers.tiles),
        str(numbers.visual_tokens),
        f"{numbers.seconds:.2f}",
    )


def table_row(row: Sequence[str]) -> str:
    """Format a row in columns of fixed width; Chinese counts double, long cells end in an ellipsis."""
    return "  ".join(_fit(cell, width) for cell, width in zip(row, WIDTHS, strict=True)).rstrip()


def _fit(text: str, width: int) -> str:
    text = " ".join(text.split())
    if _columns(text) > width:
        while _columns(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - _columns(text))


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def write_page(path: Path, outcomes: Sequence[Outcome], *, title: str, about: str) -> Path:
    """Write the page of these outcomes."""
    right = sum(outcome.right for outcome in outcomes)
    sections = [_section(number, outcome) for number, outcome in enumerate(outcomes, 1)]
    body = (
        f"<p>{html.escape(about)}</p>\n"
        f"<p>{right} of {len(outcomes)} right. Numbered outlines are the tiles that the model "
        f"sees beside the thumbnail; red boxes are the model's, green ones the truth.</p>\n"
        f"{''.join(sections)}"
    )
    return write_html(path, title=title, body=body)


def _section(number: int, outcome: Outcome) -> str:
    names, question, text, truth, verdict, tiles, tokens, seconds = map(html.escape, cells(outcome))
    figures = [
        f'<img alt="{names}, image {index + 1}" src="{embedded(outcome_image(outcome, index))}">\n'
        for index in range(len(outcome.answer.images))
    ]
    return (
        f"<section>\n<h2>{number}. {question}</h2>\n<dl>\n"
        f'<dt>answer</dt><dd class="{verdict.lower()}">{text} ({verdict.lower()})</dd>\n'
        f"<dt>truth</dt><dd>{truth}</dd>\n"
        f'<dt>took</dt><dd class="numbers">{tiles} tiles, {tokens} visual tokens, '
        f"{seconds} s</dd>\n</dl>\n{''.join(figures)}</section>\n"
    )


def outcome_image(outcome: Outcome, index: int) -> Image.Image:
    """Draw image ``index`` with its tiles, the boxes of the answer and the true one."""
    answer, case = outcome.answer, outcome.case
    drawn = draw_tiles(answer.image(index), answer.plans[index])
    if case.box is not None and index == 0:
        truth = GroundedBox(label="", box=case.box)
        drawn = draw_boxes(drawn, [truth], colours=[GREEN], gap=TRUTH_GAP)
    found = [box for box in answer.boxes if box.image == index]
    return draw_boxes(drawn, found, colours=[RED], insets=True)
