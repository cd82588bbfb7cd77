"""Templates as config nodes."""

from dataclasses import dataclass
from typing import Any

import pytest

from hdvl.config import build, from_plain
from hdvl.templates import ChatML, Norm1000, Plain, TokenizerTemplate, Unit, Xverse, node_of
from tests.templates.chat_templates import STYLES


@pytest.mark.parametrize(
    "template",
    [
        ChatML(numbering="Picture {k}: ", boxes=Norm1000(divisor=999)),
        Xverse(boxes=Unit(digits=2)),
        Plain(markers=["</s>"], user_end="\n$ {}"),
        *(
            TokenizerTemplate(
                chat_template=style.source, variables={"eos_token": style.eos, "thinking": False}
            )
            for style in STYLES.values()
        ),
    ],
)
def test_a_template_is_built_again_from_its_node(template: Any) -> None:
    assert build(from_plain(node_of(template))) == template


def test_values_that_are_not_plain_data_are_refused() -> None:
    @dataclass(frozen=True)
    class Odd:
        thing: object = b"bytes"

    with pytest.raises(ValueError, match="must hold plain values, got bytes"):
        node_of(Odd())


def test_text_is_not_interpolated() -> None:
    node = node_of(Plain(user_end="a${b}"))
    assert node["user_end"] == "a${b}"
