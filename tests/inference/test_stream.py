"""Streams give the text of chat, raise errors, and never hang."""

from pathlib import Path

import pytest
import torch

from hdvl.inference import Pipeline
from hdvl.inference.load import load
from hdvl.inference.text import TextStream
from tests.inference.saying import say, say_ids
from tests.inference.toy_tokenizers import TOYS
from tests.tiny_model import tiny_node, tiny_vlm


@pytest.fixture
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder)


@pytest.mark.slow
def test_pieces_joined_are_the_text_of_chat(pipe: Pipeline) -> None:
    for prompt in ("What?", "Where is it?", "图中的总金额是多少？"):
        stream = pipe.stream(prompt, max_new_tokens=16)
        pieces = list(stream)
        answer = pipe.chat(prompt, max_new_tokens=16)
        assert "".join(pieces) == answer.text == stream.answer.text
        assert stream.answer.history == answer.history
        assert stream.answer.numbers.new_tokens == answer.numbers.new_tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["12.50", "one two\nthree", "合计：￥128元", "a 🍜 soup", "", " led by a space", "café naïve"],
)
def test_no_piece_holds_half_a_character(pipe: Pipeline, text: str) -> None:
    say(pipe, text)
    pieces = list(pipe.stream("?"))
    assert "".join(pieces) == text == pipe.chat("?").text
    assert not any("�" in piece for piece in pieces)
    assert text == "" or len(pieces) > 1 or len(text) == 1


def test_an_answer_cut_within_a_character(pipe: Pipeline) -> None:
    ids = pipe.tokenizer("计🍜", add_special_tokens=False)["input_ids"][:-1]

    say_ids(pipe, ids)
    options = {"max_new_tokens": len(ids)}
    assert "".join(pipe.stream("?", **options)) == pipe.chat("?", **options).text


def test_stop_strings_are_never_streamed(pipe: Pipeline) -> None:
    say(pipe, "A\nUs and B\nUser: C")
    pieces = list(pipe.stream("?", stop=["\nUser:"]))
    assert "".join(pieces) == "A\nUs and B" == pipe.chat("?", stop=["\nUser:"]).text
    say(pipe, "A\nUse")  # looked like the beginning of the stop string, and was not
    assert "".join(pipe.stream("?", stop=["\nUser:"])) == "A\nUse"


def test_errors_of_the_model_are_raised(pipe: Pipeline) -> None:
    ids = pipe.tokenizer("Hello")["input_ids"]
    say_ids(pipe, [*ids, len(pipe.tokenizer)])  # the last id has no logit
    stream, pieces = pipe.stream("?"), []
    with pytest.raises(IndexError, match="out of bounds"):
        for piece in stream:
            pieces.append(piece)
    assert "".join(pieces) == "Hello"
    with pytest.raises(ValueError, match="the answer is there when the stream was read to its end"):
        _ = stream.answer
    say(pipe, "Soup")
    assert pipe.chat("?").text == "Soup"  # the engine goes on


def test_leaving_early_ends_the_generation(pipe: Pipeline) -> None:
    say(pipe, "a b " * 500)
    pieces = iter(pipe.stream("?", max_new_tokens=1000))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    pipe.engine.run_until_done()
    assert pipe.engine.counters.finished == {"cancelled": 1}
    assert pipe.engine.counters.new_tokens < 10


def test_images_are_read_before_the_stream_starts(pipe: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pipe.stream("?", images=tmp_path / "nowhere.png")


def test_a_stream_is_read_once(pipe: Pipeline) -> None:
    say(pipe, "A")
    stream = pipe.stream("?")
    assert list(stream) == ["A"]
    with pytest.raises(ValueError, match="a stream can be read once"):
        iter(stream)


def test_text_that_changes_before_what_was_sent_is_an_error(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(pipe, "AB")
    monkeypatch.setattr(TextStream, "extend", lambda self, ids: "X" * bool(ids))
    with pytest.raises(RuntimeError, match="decoded text changed behind what was sent: 'X', 'AB'"):
        list(pipe.stream("?"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TOYS))
def test_streams_of_every_kind_of_tokenizer(name: str) -> None:
    """Answers are sampled from a random model: incomplete characters, markers, truncated answers."""
    tokenizer = {"_target_": f"tests.inference.toy_tokenizers.{name}"}
    node = tiny_node()
    node["llm"]["tokenizer"] = tokenizer
    pipe = Pipeline(model=tiny_vlm(node))
    for seed in range(6):
        options = {"max_new_tokens": 12, "temperature": 3.0, "stop": ["e", "漢"][: seed % 3]}
        torch.manual_seed(seed)
        stream = pipe.stream("what", **options)
        pieces = list(stream)
        torch.manual_seed(seed)
        answer = pipe.chat("what", **options)
        assert "".join(pieces) == stream.answer.text == answer.text
        assert stream.answer.numbers.new_tokens == answer.numbers.new_tokens
        assert all(stop not in answer.text for stop in options["stop"])


@pytest.mark.slow
@pytest.mark.parametrize("text", ["Привет, мир", "안녕하세요", "🇫🇷🇩🇪", "cafe\u0301", "👨‍👩‍👧"])
@pytest.mark.parametrize("name", ["llama", "unigram", "byte_level"])
def test_characters_in_bytes_are_streamed(name: str, text: str) -> None:
    node = tiny_node()
    node["llm"]["tokenizer"] = {"_target_": f"tests.inference.toy_tokenizers.{name}"}
    pipe = Pipeline(model=tiny_vlm(node))
    say(pipe, text)
    assert "".join(pipe.stream("what")) == text == pipe.chat("what").text
