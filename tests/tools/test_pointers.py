"""The pointers of the small model's training: they name the tokens that show what an answer repeats."""

import pytest
import torch
from pointers import (
    PointerHead,
    Pointers,
    TokenGrid,
    Wanted,
    label_glyphs,
    pointers,
    spelled_label,
    wanted_of,
)

from hdvl.checkpoints.sources import ASSETS
from hdvl.data.synthetic import Document, SyntheticDocuments
from hdvl.inference.load import load
from hdvl.model import VLM
from hdvl.protocols import Box, TilePlan


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return load(ASSETS / "small").model


def page(kind: str, *, size: tuple[int, int] = (430, 330)) -> Document:
    (width, height), shown = size, {"kinds": kind, "entries": (3, 5)}
    return SyntheticDocuments(seed=3, width=(width, width), height=(height, height), **shown)[0]


@pytest.mark.parametrize("kind", ["form", "receipt_dots", "bank_statement"])
def test_a_token_shows_the_character(vlm: VLM, kind: str) -> None:
    document = page(kind)
    plan = vlm.tiler.plan(*document.image.size)
    places = vlm.merger.places(plan)
    grid = TokenGrid(plan, places)
    for glyph in document.glyphs:
        left, top, right, bottom = glyph.box
        place = places[grid.token(glyph.box)]
        assert place is not None
        assert place[0] - 1 <= (left + right) / 2 <= place[2] + 1
        assert place[1] - 1 <= (top + bottom) / 2 <= place[3] + 1


def test_locations_are_thousandths_of_the_image(vlm: VLM) -> None:
    plan = vlm.tiler.plan(400, 300)
    grid = TokenGrid(plan, vlm.merger.places(plan))
    assert grid.locations((40.0, 30.0, 400.0, 150.0)) == [100, 100, 999, 500]


def test_a_plan_that_does_not_fit_the_tokens_is_refused(vlm: VLM) -> None:
    plan: TilePlan = vlm.tiler.plan(400, 300)
    with pytest.raises(ValueError, match="more tokens than the image has places"):
        TokenGrid(plan, [(0.0, 0.0, 1.0, 1.0)] * 10)


def test_the_label_of_a_field_is_found_and_that_of_a_row() -> None:
    form, table = page("form"), page("table")
    for field in form.fields:
        shown = "".join(glyph.char for glyph in label_glyphs(form, field)).lower()
        assert shown == field.name.replace(" ", "")
    found = ["".join(g.char for g in label_glyphs(table, field)).lower() for field in table.fields]
    assert all(
        name and field.name.lower().startswith(name[:3])
        for name, field in zip(found, table.fields, strict=True)
    )


def test_an_answer_looks_at_each_of_its_characters() -> None:
    document = page("form")
    field = next(one for one in document.fields if " " not in one.value)
    read = wanted_of(document, field, field.value, locates=False)
    glyphs = document.glyphs[slice(*field.span)]
    shown = [glyph.box for glyph in glyphs]
    assert read.read == [*shown, shown[-1]] and not read.corners
    assert glyphs[0].box in read.named and len(read.named) > 1
    spaced = wanted_of(document, field, f"{field.value[0]} {field.value[1:]}", locates=False)
    assert spaced.read == [shown[0], shown[1], *shown[1:], shown[-1]]
    located = wanted_of(document, field, "<box>", locates=True)
    assert located.corners == [glyphs[0].box, glyphs[-1].box] and not located.read
    assert located.around == field.box


class Numbered:
    """A grid whose token is the left edge of a box."""

    def locations(self, box: Box) -> list[int]:
        return [int(value) for value in box]

    def token(self, box: Box) -> int:
        return int(box[0])


def test_positions_before_the_tokens_of_an_answer_are_packed() -> None:
    boxes = [(float(n), 0.0, 0.0, 0.0) for n in range(4)]
    labels = torch.tensor([-100] * 10 + [65, 66, 90, 91])
    ids = torch.tensor([0, 0, 7, 8, 3, 7, 8, 4, 0, 0, 65, 66, 90, 91])
    read = Wanted(named=boxes[:2], read=[boxes[2]])
    read.spelled = [(7, boxes[1:2]), (8, boxes[2:4]), (4, [])]
    spelled, named, following = pointers(
        [(2, 9, Numbered(), [10, 11], read)],  # type: ignore[list-item]
        labels,
        lambda ids: "x" * len(ids),
        lambda token: token >= 90,
        ids,
    )
    # From the last place of these tokens before the answer, and only where they have letters.
    assert spelled.queries.tolist() == [5, 6]
    assert spelled.found[:, :3].tolist() == [[3, -1, -1], [4, 5, -1]]
    assert named.queries.tolist() == [9] and named.found[0, :3].tolist() == [2, 3, -1]
    assert following.queries.tolist() == [9] and following.found[0, 0] == 4
    assert following.boxes.tolist() == [[2, 0, 0, 0]]
    located = Wanted(corners=[boxes[0], boxes[3]], around=(1.0, 2.0, 3.0, 4.0))
    labels = torch.tensor([-100] * 8 + [65, 66, 90, 91, 92, 93])
    spelled, _, corners = pointers(
        [(2, 7, Numbered(), list(range(8, 14)), located)],  # type: ignore[list-item]
        labels,
        str,
        lambda token: token >= 90,
        ids,
    )
    assert not len(spelled.queries)
    assert corners.queries.tolist() == [9, 10, 11, 12]
    assert corners.found[:, 0].tolist() == [2, 2, 5, 5]
    assert corners.boxes.tolist() == [[1, 2, 3, 4]] * 4


def test_the_tokens_of_a_question_spell_the_label_on_the_page(vlm: VLM) -> None:
    document, tokenizer = page("form"), vlm.llm.tokenizer
    chars = {glyph.box: glyph.char for glyph in document.glyphs}
    for field in document.fields:
        if not label_glyphs(document, field):
            continue
        for question in (field.question, f"WHERE IS THE {field.name.upper()}?"):
            spelled = spelled_label(tokenizer, document, field, question)
            assert spelled
            for token, boxes in spelled:
                shown = "".join(chars[box] for box in boxes)
                assert shown.lower() == tokenizer.decode([token]).strip().lower()
        assert spelled_label(tokenizer, document, field, "What is the zebra?") == []


def test_the_head_learns_where_to_look() -> None:
    torch.manual_seed(0)
    states, head = torch.randn(12, 16), PointerHead(16)
    queries, found = torch.tensor([9, 10]), torch.tensor([[1, -1], [6, 7]])
    images, boxes = torch.tensor([[0, 5], [5, 9]]), torch.zeros(2, 4)
    wanted = Pointers(queries, images, found, boxes)
    before, _ = head(states, wanted)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(60):
        loss, hits = head(states, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * before and hits == 1
