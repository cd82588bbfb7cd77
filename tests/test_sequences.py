"""Options that take lists accept a string as a single item."""

import pytest

from hdvl.data.synthetic import SyntheticDocuments
from hdvl.sequences import one_or_several
from hdvl.templates import ChatML, Plain
from hdvl.training.adapters import add_adapters
from hdvl.training.token_rows import new_token_ids
from tests.tiny_model import tiny_vlm


def test_a_string_is_one_item() -> None:
    assert one_or_several("9 lives", "stop") == ("9 lives",)
    assert one_or_several(["a", "b"], "stop") == ("a", "b")
    assert one_or_several([], "stop") == ()


@pytest.mark.parametrize("value", [5, None, ["a", 5], {"a": 1}, b"a", [["a"]]])
def test_other_kinds_are_refused_by_name(value: object) -> None:
    with pytest.raises(
        TypeError, match=r"tuning\.tokens must be a string or a list of strings, got"
    ):
        one_or_several(value, "tuning.tokens")


def test_options_of_templates_and_data() -> None:
    assert Plain(extra_stop="User:").stop[-1] == "User:"
    assert ChatML(markers="<|im_end|>").markers == ("<|im_end|>",)
    assert SyntheticDocuments(kinds="receipt").kinds == ("receipt",)


def test_options_of_tuning() -> None:
    vlm = tiny_vlm()
    vlm.llm.add_tokens("<mark>")
    vocabulary = vlm.llm.tokenizer.get_vocab()
    assert "<mark>" in vocabulary
    assert new_token_ids(vlm, "<mark>") == [vocabulary["<mark>"]]
    options = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "q_proj"}
    add_adapters("llm", "lora", vlm.llm, options)
    names = [name for name, _ in vlm.llm.named_parameters() if "lora_A" in name]
    assert names and all(".q_proj." in name for name in names)
