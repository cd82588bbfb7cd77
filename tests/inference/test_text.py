"""Text of every kind of tokenizer: streamed text is never revised, and ends before stop strings."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from hdvl.inference.text import Detokenizer, stop_strings
from hdvl.templates import ChatML
from tests.inference.toy_tokenizers import TOYS

TEXTS = [
    "Привет, мир: 12 кг",
    "안녕하세요 세계",
    "🇫🇷🇩🇪🇯🇵 flags",
    "a 👨‍👩‍👧‍👦 family 🏳️‍🌈",
    "cafe\u0301 nai\u0308ve Å é ñ",
    "漢字 and 饕餮 𠜎𠜱 off the page",
    "the dance\nand\tthe end.",
    "",
    "  two spaces ",
    "half \ufffd a character",
]


@pytest.fixture(params=sorted(TOYS), scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOYS[request.param]()


def check_stream(detokenizer: Detokenizer, ids: list[int]) -> None:
    """What is sent after each id is a part of every later text."""
    sent = ""
    for length in range(len(ids) + 1):
        stable = detokenizer.stable_prefix(ids[:length])
        assert stable.startswith(sent)
        sent = stable
        assert detokenizer.text(ids[:length]).startswith(sent)
        if detokenizer.stopped(ids[:length]):
            break


def test_streamed_text_is_never_revised(tokenizer: Any) -> None:
    detokenizer = Detokenizer.of(tokenizer, ChatML())
    for text in TEXTS:
        check_stream(detokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.slow_beyond(1)
def test_streamed_text_of_any_ids_is_never_revised(tokenizer: Any) -> None:
    """Models generate incomplete characters, and answers may end within one."""
    draw = random.Random(0)
    for _ in range(150):
        stop = draw.choice([(), "e", ("an", " the"), "\ufffd", "é"])
        detokenizer = Detokenizer.of(tokenizer, ChatML(), stop)
        known = tokenizer("".join(draw.sample(TEXTS, 2)), add_special_tokens=False)["input_ids"]
        ids = [
            draw.choice(known) if draw.random() < 0.7 else draw.randrange(len(tokenizer))
            for _ in range(draw.randrange(12))
        ]
        check_stream(detokenizer, ids)


def test_bytes_are_held_until_their_run_is_over() -> None:
    tokenizer = TOYS["llama"]()
    detokenizer = Detokenizer.of(tokenizer, ChatML())
    ids = tokenizer("мы a", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[1:3] == ["<0xD0>", "<0xBC>"]
    sent = [detokenizer.stable_prefix(ids[:length]) for length in range(len(ids) + 1)]
    assert sent == ["", "", "", "", "", "", "мы a"]
    assert tokenizer.decode(ids[:4]) == "\ufffd" * 3  # the first character is given up again


@pytest.mark.parametrize("stop", ["a", "ce", "an", " w", "anc", "e a", "d", "nce and w", "漢"])
def test_text_ends_before_the_first_stop_string(tokenizer: Any, stop: str) -> None:
    ids = tokenizer("the dance and warm 漢字 and a dance", add_special_tokens=False)["input_ids"]
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    detokenizer = Detokenizer.of(tokenizer, ChatML(), stop)
    assert stop in whole
    ended = next(n for n in range(len(ids) + 1) if stop in tokenizer.decode(ids[:n]))
    assert detokenizer.own_ids(ids) == ids[:ended]
    assert [detokenizer.just_stopped(ids[:n]) for n in (ended - 1, ended)] == [False, True]
    assert detokenizer.own_ids([*ids[:ended], *detokenizer.end_ids[:1] * 5]) == ids[:ended]
    assert detokenizer.text(ids[:ended]) == whole[: whole.index(stop)]
    check_stream(detokenizer, ids)


@pytest.mark.slow
def test_stop_strings_are_detected_at_the_end_of_a_text(tokenizer: Any) -> None:
    """After each id of long texts, until one holds the stop string."""
    draw = random.Random(1)
    for _ in range(20):
        text = " ".join(draw.choices(TEXTS, k=16))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        decoded = Detokenizer.of(tokenizer, ChatML()).text(ids)
        place = draw.randrange(len(decoded) // 2, len(decoded) - 6)
        detokenizer = Detokenizer.of(
            tokenizer, ChatML(), decoded[place : place + draw.randint(1, 5)]
        )
        for length in range(len(ids) + 1):
            stopped = detokenizer.stopped(ids[:length])
            assert detokenizer.just_stopped(ids[:length]) == stopped
            if stopped:
                break
        assert stopped


def test_the_cost_of_an_id_is_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    detokenizer = Detokenizer.of(TOYS["byte_level"](), ChatML(), "User:")
    ids = detokenizer.tokenizer("one two three " * 200)["input_ids"]
    decoded = list[int]()
    decode = Detokenizer.decode

    def counted(self: Detokenizer, given: list[int]) -> str:
        decoded.append(len(given))
        return decode(self, given)

    monkeypatch.setattr(Detokenizer, "decode", counted)
    assert not detokenizer.just_stopped(ids) and decoded == [4 * len("<|im_end|>") + 32]


def test_the_first_of_several_stop_strings_ends_the_text() -> None:
    detokenizer = Detokenizer.of(TOYS["byte_level"](), ChatML(), ["lives", "9 lives", "cat"])
    ids = detokenizer.tokenizer("A cat has 9 lives")["input_ids"]
    assert detokenizer.text(detokenizer.own_ids(ids)) == "A "


def test_a_templates_stop_string_ends_the_text_however_it_is_spelled(tokenizer: Any) -> None:
    detokenizer = Detokenizer.of(tokenizer, ChatML())
    (marker,) = tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"]
    assert marker in detokenizer.end_ids and marker in detokenizer.silent_ids
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "A<|im_end|>B"]
    assert None not in letters
    text = tokenizer.decode(letters, clean_up_tokenization_spaces=False)
    if "<|im_end|>" in text:  # not so where the decoder puts spaces between letters
        assert detokenizer.own_ids(letters) == letters[:-1]
        assert detokenizer.text(letters) == "A"


def test_a_string_is_one_stop_string(unchecked: Callable[[], AbstractContextManager[None]]) -> None:
    assert stop_strings("9 lives") == ("9 lives",) == stop_strings(["9 lives"])
    assert stop_strings(()) == ()
    for wrong in (5, [5], None, {"a": 1}):
        with (
            unchecked(),
            pytest.raises(TypeError, match="stop must be a string or a list of strings, got"),
        ):
            stop_strings(wrong)  # type: ignore[arg-type]
    for empty in ("", ["a", ""]):
        with pytest.raises(ValueError, match="stop strings must not be empty"):
            stop_strings(empty)
