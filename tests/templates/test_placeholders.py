"""Ids of prompts that another library tokenised become those of hdvl's own encoding."""

from collections.abc import Callable
from typing import Any

import pytest

from hdvl.protocols import Layout, Message
from hdvl.templates import ChatML, TurnTemplate, Xverse, encode
from hdvl.templates.placeholders import expand_ids, layout_ids
from tests.templates.toy_tokenizers import KINDS

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "slots alone": ((3,), (2,)),
    "tags inside": (("", 2, "<r>\n", 2), (1, "\n", 1, "\n", 1)),
    "tags at the edges, which join the text around them": (
        ("row 1: ", 2, "\n"),
        ("\n\nrow 1: ", 1, "row 2: ", 2, "\n\n"),
    ),
}
TALK = [
    Message("user", "<image>\nA <image>\n\nb", images=("a", "b")),
    Message("assistant", "Yes"),
    Message("user", "And now?"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("template", [ChatML(system=""), Xverse()], ids=lambda t: type(t).__name__)
def test_the_ids_are_those_of_encode(
    template: TurnTemplate, name: str, kind: str, tokenizer_for: Callable[..., Any]
) -> None:
    tokenizer, layouts = tokenizer_for(template, kind), LAYOUTS[name]
    # Xverse's answers are tokenised apart from the text before them, so it has none here.
    talk = TALK if isinstance(template, ChatML) else TALK[:1]
    own = encode(template, tokenizer, talk, layouts, add_generation_prompt=True)
    text = template.render(talk, add_generation_prompt=True).text
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    token = template.image_token
    images = [layout_ids(tokenizer, token, layout) for layout in layouts]
    if kind == "metaspace" and name.startswith("tags at the edges"):
        # Its ids do not say where a text had a space, so that the text beside a tag is not known.
        with pytest.raises(ValueError, match="those that the tokenizer gives for their text"):
            expand_ids(tokenizer, token, prompt, images)
        return
    expanded = expand_ids(tokenizer, token, prompt, images)
    assert expanded.ids == own.ids.tolist()
    image_id = tokenizer.convert_tokens_to_ids(token)
    for (start, stop), layout in zip(expanded.spans, layouts, strict=True):
        inside = expanded.ids[start:stop]
        assert (inside[0], inside[-1]) == (image_id, image_id)
        assert inside.count(image_id) == sum(piece for piece in layout if isinstance(piece, int))


def test_a_tag_beside_a_tag_joins_it(tokenizer_for: Callable[..., Any]) -> None:
    """The tail of one image and the head of the next one are tokenised as one text."""
    template = ChatML(system="")
    tokenizer, layouts = tokenizer_for(template), ((2, "\n"), ("\n", 2))
    talk = [Message("user", "<image><image> What?", images=("a", "b"))]
    own = encode(template, tokenizer, talk, layouts, add_generation_prompt=True)
    text = template.render(talk, add_generation_prompt=True).text
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    images = [layout_ids(tokenizer, template.image_token, layout) for layout in layouts]
    assert expand_ids(tokenizer, template.image_token, prompt, images).ids == own.ids.tolist()


def test_numbers_of_images_must_agree(tokenizer_for: Callable[..., Any]) -> None:
    template = ChatML(system="")
    tokenizer = tokenizer_for(template)
    prompt = tokenizer(f"a {template.image_token} b", add_special_tokens=False)["input_ids"]
    image = layout_ids(tokenizer, template.image_token, (2,))
    with pytest.raises(ValueError, match="got 2 images and 1 tokens; write one token for each"):
        expand_ids(tokenizer, template.image_token, prompt, [image, image])
    with pytest.raises(ValueError, match="at least one visual token, got none"):
        expand_ids(tokenizer, template.image_token, prompt, [[]])


def test_ids_beside_a_tag_must_be_those_of_their_text(tokenizer_for: Callable[..., Any]) -> None:
    template = ChatML(system="")
    tokenizer = tokenizer_for(template)
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "the"]
    assert tokenizer("the", add_special_tokens=False)["input_ids"] != letters
    prompt = [*letters, tokenizer.convert_tokens_to_ids(template.image_token)]
    plain = layout_ids(tokenizer, template.image_token, (2,))
    assert expand_ids(tokenizer, template.image_token, prompt, [plain]).ids[:3] == letters
    tagged = layout_ids(tokenizer, template.image_token, ("row ", 2))
    with pytest.raises(ValueError, match="those that the tokenizer gives for their text, 'the'"):
        expand_ids(tokenizer, template.image_token, prompt, [tagged])
