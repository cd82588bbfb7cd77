"""Tokenizers built in memory and read from folders."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from hdvl.inputs import ASSETS
from hdvl.llms import build_tokenizer, load_tokenizer, read_texts, save_tokenizer
from hdvl.llms.tokenizers import has_tokenizer

TEXTS = [
    "The total is $12.50.",
    "图中的总金额是多少？",
    "emoji 😀👍🏽👩‍👩‍👧 and é, e\u0301, ﬁ, \u200d, \u00a0, \ufeff",
    "  two  spaces \t\r\n\n\n trailing  ",
    "\x00\x07 control",
    "عربى हिन्दी 한국어 日本語",
    "",
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_survives(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_are_characters(tokenizer: Any, text: str) -> None:
    encoding = tokenizer(text, return_offsets_mapping=True)
    covered = [set(range(a, b)) for a, b in encoding["offset_mapping"]]
    assert all(covered)
    assert set().union(*covered) == set(range(len(text)))
    for token, (a, b) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        said = tokenizer.decode([token])
        assert "\ufffd" in said or said == text[a:b]


def test_each_digit_is_a_token(tokenizer: Any) -> None:
    for text in ("1234567890", "a12.50b", "$ 1024 99"):
        for token in tokenizer(text)["input_ids"]:
            said = tokenizer.decode([token])
            assert said.isdigit() == any(c.isdigit() for c in said)
            assert not said.isdigit() or len(said) == 1


def test_special_tokens(tokenizer: Any) -> None:
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    ids = tokenizer("<|im_start|>user\nhi<|im_end|>")["input_ids"]
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nhi"


def test_it_is_deterministic() -> None:
    # Another digest means that checkpoints trained with this tokenizer no longer fit it.
    vocabulary = sorted(build_tokenizer(vocab_size=900).get_vocab().items())
    digest = hashlib.blake2b(json.dumps(vocabulary).encode(), digest_size=8).hexdigest()
    assert digest == "469a014d0ed0476a"


def test_it_is_built_quickly() -> None:
    start = time.process_time()
    build_tokenizer(vocab_size=512)
    assert time.process_time() - start < 0.5  # about 0.03 s


def test_own_texts_and_short_tokens() -> None:
    texts = ["receipts receipts receipts"] * 10
    assert "receipts" in build_tokenizer(texts=texts, vocab_size=300).get_vocab()
    short = build_tokenizer(texts=texts, vocab_size=300, max_token_length=2).get_vocab()
    assert max(len(t) for t in short if not t.startswith("<|")) == 2
    assert len(build_tokenizer(texts=[], vocab_size=300)) == 259


def test_bad_numbers() -> None:
    with pytest.raises(ValueError, match="256 bytes and 3 special tokens, at least 259, got 100"):
        build_tokenizer(vocab_size=100)
    with pytest.raises(ValueError, match=r"pad_token must be one of special_tokens \['<a>'\]"):
        build_tokenizer(special_tokens=["<a>"])
    with pytest.raises(ValueError, match="eos_token must be one of"):
        build_tokenizer(special_tokens=["<a>"], pad_token="<a>")


def test_there_and_back(tokenizer: Any, tmp_path: Path) -> None:
    assert not has_tokenizer(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    assert has_tokenizer(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.eos_token_id == tokenizer.eos_token_id
    for text in TEXTS:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == text


def test_a_missing_folder() -> None:
    with pytest.raises(ValueError, match=r"tokenizer folder must exist, got '\./nowhere'"):
        load_tokenizer("./nowhere")


def test_read_texts(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a\n图\n", encoding="utf-8")
    assert read_texts(str(tmp_path / "t.txt")) == ["a", "图"]


def test_padding_and_end_in_place_of_the_files(tmp_path: Path) -> None:
    """XVERSE-V uses ``<pad>`` and ``<|endoftext|>`` (ids 1 and 3), which its files do not declare."""
    special = ["<unk>", "<pad>", "<|startoftext|>", "<|endoftext|>"]
    built = build_tokenizer(special_tokens=special, pad_token="<unk>", eos_token="<|startoftext|>")
    save_tokenizer(built, tmp_path)
    loaded = load_tokenizer(tmp_path, pad_token="<pad>", eos_token="<|endoftext|>")
    assert (loaded.pad_token_id, loaded.eos_token_id) == (1, 3)
    assert len(loaded) == len(built)
    with pytest.raises(
        ValueError, match=r"pad_token must be a token of the tokenizer in .*'<hole>'"
    ):
        load_tokenizer(tmp_path, pad_token="<hole>")


def test_the_tokenizer_of_a_model_folder() -> None:
    small = load_tokenizer("hdvl/small")
    assert small.get_vocab() == load_tokenizer(ASSETS / "small").get_vocab()
    assert len(small) == len(load_tokenizer(ASSETS / "small" / "tokenizer"))
    with pytest.raises(ValueError, match="model 'hdvl/large' is not shipped"):
        load_tokenizer("hdvl/large")
