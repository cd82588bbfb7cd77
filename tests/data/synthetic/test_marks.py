"""Pages of marks and figures: reproducible, evenly mixed, and small or large as they say."""

import numpy as np
import pytest

from hdvl.data.synthetic.marks import SHAPES, MarkedPages, vocabulary


def extent(image: np.ndarray) -> float:
    """The larger side of what differs from the corner, as a share of the page."""
    rows, cols = np.nonzero((image != np.median(image, axis=(0, 1))).any(2))
    return max(rows.max() - rows.min(), cols.max() - cols.min()) / len(image)


def test_pages_follow_from_seed_and_index() -> None:
    one, other = MarkedPages(seed=1), MarkedPages(seed=1)
    assert one.page(3).image.tobytes() == other.page(3).image.tobytes()
    assert MarkedPages(seed=2).page(3).image.tobytes() != one.page(3).image.tobytes()
    shapes = {(one.page(n).shape, one.page(n).small) for n in range(80)}
    assert len(shapes) == 2 * len(SHAPES)


def test_marks_are_small_and_figures_large() -> None:
    source = MarkedPages(mark_size=(8, 8), figure_size=(0.8, 0.8))
    marks, figure = source.page(0), source.page(1)
    assert marks.small and not figure.small
    assert extent(np.asarray(figure.image)) == pytest.approx(0.8, abs=0.05)
    ink = (np.asarray(marks.image) != np.median(np.asarray(marks.image), axis=(0, 1))).any(2)
    assert 0 < ink.sum() <= 16 * 8 * 8
    question, answer = source[0]
    assert question.text == "What is small?" and answer.text == marks.shape


def test_a_tokenizer_makes_one_token_of_each_answer() -> None:
    from hdvl.llms import build_tokenizer

    tokenizer = build_tokenizer(texts=vocabulary(), vocab_size=400)
    assert all(len(tokenizer(shape)["input_ids"]) == 1 for shape in SHAPES)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"mark_size must be a range within 4\.\.64"):
        MarkedPages(mark_size=(8, 80))
    with pytest.raises(ValueError, match=r"figure_size must be a range within 0\.\.0\.95"):
        MarkedPages(figure_size=(0.5, 1.5))
    with pytest.raises(IndexError, match=r"conversation 9 is not in 0\.\.4"):
        MarkedPages(length=5)[9]
