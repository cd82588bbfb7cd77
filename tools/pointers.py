"""Pointers of the small model's training: at which visual tokens the model has to look, and the loss for it.

Heads compare states of the text with the states of the visual tokens of its image. From a token of the
question one finds the letters of the label that it spells. From the state before a token of the answer the
others find the label that the question names, or the value beside it, and the next character of a value.
They show the LLM where to look long before its answers are right.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from pretraining import LOCATIONS, TOKEN
from torch import Tensor, nn

from hdvl.data.synthetic import Document, Field, Glyph
from hdvl.protocols import Box, TilePlan

MOST = 12
"""The most visual tokens that one pointer may find."""


@dataclass
class Wanted:
    """What the model has to look at for an answer, as boxes in the image.

    Attributes:
        named: the characters of the label that the question names, and the first of the value.
        read: the character that each character of the answer repeats: for a space the character after it, and
            for the end of the answer, which comes last, the last one.
        corners: the first and last character of the value, if the answer is its box.
        around: that box.
        spelled: ids of the tokens in which the question spells the label, with the characters of each.
    """

    named: list[Box] = field(default_factory=list)
    read: list[Box] = field(default_factory=list)
    corners: list[Box] = field(default_factory=list)
    around: Box | None = None
    spelled: list[tuple[int, list[Box]]] = field(default_factory=list)


@dataclass
class Pointers:
    """Positions in a packed row: of queries, of the visual tokens they may look at, of those they shall find.

    Attributes:
        queries: positions (n) of the states that look.
        images: first and last + 1 position (n 2) of the visual tokens of the image.
        found: positions (n, MOST) of the tokens to find, -1 where there are fewer.
        boxes: the locations (n 4) of the box around what is to be found.
    """

    queries: Tensor
    images: Tensor
    found: Tensor
    boxes: Tensor


def wanted_of(document: Document, chosen: Field, answer: str, *, locates: bool) -> Wanted:
    """What to look at for an answer about ``chosen``."""
    value = list(document.glyphs[slice(*chosen.span)])
    boxes = [glyph.box for glyph in value]
    wanted = Wanted([glyph.box for glyph in label_glyphs(document, chosen)] + boxes[:1])
    if locates:
        wanted.corners, wanted.around = [boxes[0], boxes[-1]], chosen.box
    elif len(boxes) == len(answer.replace(" ", "")):
        starts = accumulate((char != " " for char in answer), initial=0)
        wanted.read = [boxes[min(start, len(boxes) - 1)] for start in starts]
    return wanted


def label_glyphs(document: Document, chosen: Field) -> list[Glyph]:
    """The characters of the label of a field, in a table those of its row; none if they are not found."""
    outside = [
        glyph
        for number, glyph in enumerate(document.glyphs)
        if not chosen.span[0] <= number < chosen.span[1]
    ]
    text = "".join(glyph.char for glyph in outside).lower()
    words = chosen.name.lower().split()
    for count in range(len(words), 0, -1):
        part = "".join(words[:count])
        begin = text.find(part) if len(text) == len(outside) else -1
        if begin >= 0 and text.find(part, begin + 1) < 0:
            return outside[begin : begin + len(part)]
    return []


def spelled_label(
    tokenizer: Any, document: Document, chosen: Field, question: str
) -> list[tuple[int, list[Box]]]:
    """The ids of the tokens in which an English question spells a label, with the characters of each.

    Nothing if the question does not hold the label, or the page does not show it exactly once.
    """
    begin, name = question.lower().find(chosen.name.lower()), chosen.name
    shown = [glyph.box for glyph in label_glyphs(document, chosen)]
    if begin < 0 or not shown or document.language != "en":
        return []
    told = tokenizer(question, return_offsets_mapping=True, add_special_tokens=False)
    found = list[tuple[int, list[Box]]]()
    for token, (first, last) in zip(told["input_ids"], told["offset_mapping"], strict=True):
        inside = range(max(0, first - begin), min(len(name), last - begin))
        letters = [len(name[:at].replace(" ", "")) for at in inside if name[at] != " "]
        if letters:  # of a table's label only the row is shown in one place
            found.append((token, [shown[at] for at in letters if at < len(shown)]))
    return found


class TokenGrid:
    """Finds the visual token that shows a point of an image.

    ``place`` is where (x, y) the image stands on a page, and the (width, height) of that page: the image
    itself if nothing is said.
    """

    def __init__(
        self,
        plan: TilePlan,
        places: Sequence[Box | None],
        place: tuple[int, int, int, int] | None = None,
    ) -> None:
        self.plan, self.count = plan, len(places)
        self.place = place or (0, 0, plan.width, plan.height)
        cols, rows = (side // TOKEN for side in plan.canvas)
        self.cols, self.first = cols, len(places) - rows * (cols + 1)
        if self.first < 0:
            raise ValueError(f"{plan} has more tokens than the image has places")

    def locations(self, box: Box) -> list[int]:
        """``box`` in thousandths of the page."""
        x, y, *page = self.place
        return [
            min(LOCATIONS - 1, max(0, round(LOCATIONS * (value + start) / side)))
            for value, start, side in zip(box, (x, y) * 2, page * 2, strict=True)
        ]

    def token(self, box: Box) -> int:
        """The number of the token that shows the centre of ``box``, among those of the image."""
        left, top, right, bottom = self.plan.content
        x = left + (box[0] + box[2]) / 2 / self.plan.width * (right - left)
        y = top + (box[1] + box[3]) / 2 / self.plan.height * (bottom - top)
        row, col = int(y) // TOKEN, min(int(x) // TOKEN, self.cols - 1)
        return min(self.first + max(0, row) * (self.cols + 1) + max(0, col), self.count - 1)


def pointers(
    items: Sequence[tuple[int, int, TokenGrid, list[int], Wanted]],
    labels: Tensor,
    decode: Callable[[Tensor], str],
    is_location: Callable[[int], bool],
    ids: Tensor,
) -> tuple[Pointers, Pointers, Pointers]:
    """The pointers from the letters of questions, to what questions name, and to the next characters.

    Args:
        items: first and last + 1 position of an image's tokens, its grid, the positions of the tokens of an
            answer, and what these look at.
        labels: the ids to predict (s).
        decode: text of ids.
        is_location: whether an id is a location of a box.
        ids: the ids that are read (s).
    """
    spelled, named, following = list[_Pointer](), list[_Pointer](), list[_Pointer]()
    for first, last, grid, run, wanted in items:
        span = (first, last)
        begin = _place_of([token for token, _ in wanted.spelled], ids, run[0])
        for offset, (_, boxes) in enumerate(wanted.spelled):
            if begin is not None and boxes:
                tokens = _tokens(grid, first, boxes)
                spelled.append((begin + offset, span, tokens, grid.locations(boxes[-1])))
        if wanted.named:
            around = grid.locations(wanted.named[-1])
            named.append((run[0] - 1, span, _tokens(grid, first, wanted.named), around))
        for position, box in _next(run, labels, wanted, decode, is_location):
            tokens = _tokens(grid, first, [box])
            following.append((position - 1, span, tokens, grid.locations(wanted.around or box)))
    return _pack(spelled), _pack(named), _pack(following)


def _place_of(tokens: list[int], ids: Tensor, end: int) -> int | None:
    """Where ``tokens`` last stand among the 60 ``ids`` before ``end``; ``None`` if they do not."""
    start = max(0, end - 60)
    held = ids[start:end].tolist()
    for at in range(len(held) - len(tokens), -1, -1):
        if held[at : at + len(tokens)] == tokens:
            return start + at
    return None


_Pointer = tuple[int, tuple[int, int], list[int], list[int]]


def _next(
    run: list[int],
    labels: Tensor,
    wanted: Wanted,
    decode: Callable[[Tensor], str],
    is_location: Callable[[int], bool],
) -> Iterator[tuple[int, Box]]:
    """The positions of an answer's tokens that repeat a character or a corner, with its box."""
    if wanted.corners:
        places = [position for position in run if is_location(int(labels[position]))]
        corners = (*wanted.corners[:1] * 2, *wanted.corners[1:] * 2)
        yield from zip(places, corners, strict=False)
        return
    for step, position in enumerate(run):
        begun = len(decode(labels[run[:step]])) if step else 0
        if begun < len(wanted.read):
            yield position, wanted.read[begun]


def _tokens(grid: TokenGrid, first: int, boxes: Sequence[Box]) -> list[int]:
    return sorted({first + grid.token(box) for box in boxes})[:MOST]


def _pack(found: Sequence[_Pointer]) -> Pointers:
    padded = [tokens + [-1] * (MOST - len(tokens)) for _, _, tokens, _ in found]
    return Pointers(
        torch.tensor([query for query, *_ in found], dtype=torch.long),
        torch.tensor([span for _, span, *_ in found], dtype=torch.long).view(-1, 2),
        torch.tensor(padded, dtype=torch.long).view(-1, MOST),
        torch.tensor([box for *_, box in found], dtype=torch.long).view(-1, 4),
    )


class PointerHead(nn.Module):
    """Compares states of the text with states of visual tokens, as an attention head of width 64 does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.query, self.key = (nn.Linear(width, 64, bias=False) for _ in range(2))

    def forward(self, states: Tensor, wanted: Pointers) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy of the pointers: states (s width) of all positions."""
        losses, hits = list[Tensor](), list[Tensor]()
        for first, last in {tuple(span) for span in wanted.images.tolist()}:
            own = (wanted.images == torch.tensor((first, last))).all(1)
            queries = self.query(self.norm(states[wanted.queries[own]]))
            scores = queries @ self.key(self.norm(states[first:last])).T / 8
            known, places = wanted.found[own] >= 0, (wanted.found[own] - first).clamp(min=0)
            picked = scores.log_softmax(-1).gather(1, places).masked_fill(~known, -torch.inf)
            losses.append(-picked.logsumexp(1))
            best = scores.argmax(1, keepdim=True)
            hits.append(((best == places) & known).any(1))
        return torch.cat(losses).mean(), torch.cat(hits).float().mean()
