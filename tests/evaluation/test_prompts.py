"""Prompts are filled, and pieces with an empty field are left out."""

import pytest

from hdvl.evaluation.prompts import prompt_of
from hdvl.evaluation.samples import Sample

PIECES = ["Hint: {hint}\n", "{question}\n", "Options:\n{options}\n"]


def test_pieces_with_an_empty_field_are_left_out() -> None:
    sample = Sample("1", "Is {x} red?", options={"A": "yes", "B": "{no}"}, hint="Look.")
    assert prompt_of(PIECES, sample) == "Hint: Look.\nIs {x} red?\nOptions:\nA. yes\nB. {no}\n"
    assert prompt_of(PIECES, sample, "({letter}) {text}").endswith("(A) yes\n(B) {no}\n")
    assert prompt_of(PIECES, Sample("1", "q")) == "q\n"
    assert prompt_of("{question} Answer:", Sample("1", "q")) == "q Answer:"


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"must use the fields question, .*got \{other\}"):
        prompt_of("{other}", Sample("1", "q"))
