"""Ids from a rank file: by the merging rule for made-up ranks, as published for Qwen's own file."""

import json
import random
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from hdvl.llms import load_qwen_tokenizer, load_tokenizer, save_tokenizer
from hdvl.llms.qwen_tiktoken import CHAT_TOKENS, FILE, SPECIAL_TOKENS, TAGS
from hdvl.llms.texts import TEXTS
from hdvl.llms.tokenizers import has_tokenizer
from tests.llms.rank_files import Ranks, learn_ranks, merge_by_rank, write_ranks
from tests.qwen_golden import GOLDEN, published, without_paths

__all__ = ["published"]  # a fixture


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return learn_ranks()


@pytest.fixture(scope="module")
def folder(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranks(tmp_path_factory.mktemp("qwen"), ranks)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_qwen_tokenizer(folder)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_words_merge_by_rank(seed: int | None, tmp_path: Path) -> None:
    """Also for shuffled ranks, with several merges for a token and tokens without a merge."""
    ranks = learn_ranks(seed=seed)
    tokenizer = load_qwen_tokenizer(write_ranks(tmp_path, ranks))
    words = {word for text in TEXTS for word in re.findall(r"[^\W\d_]+", text)}
    draw = random.Random(0)
    letters = sorted(set("".join(words)))
    words |= {"".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(300)}
    words |= {word for token in ranks if (word := token.decode(errors="replace")).isalpha()}
    for word in sorted(words):
        word = unicodedata.normalize("NFC", word)
        assert ids_of(tokenizer, word) == merge_by_rank(word.encode(), ranks), word


def test_how_text_is_split(tokenizer: Any, ranks: Ranks) -> None:
    cases = {
        "I'll be": ["I", "'ll", " be"],
        "10:30am": ["1", "0", ":", "3", "0", "am"],
        "a  b\r\n c": ["a", " ", " b", "\r\n", " c"],
        "end.\n\nNew": ["end", ".\n\n", "New"],
        "  x  ": [" ", " x", "  "],
        "(见图)": ["(见图", ")"],
    }
    for text, pieces in cases.items():
        expected = [i for piece in pieces for i in merge_by_rank(piece.encode(), ranks)]
        assert ids_of(tokenizer, text) == expected, text


def test_text_is_composed_first(tokenizer: Any) -> None:
    assert ids_of(tokenizer, "cafe\u0301") == ids_of(tokenizer, "café")


def test_every_text_comes_back(tokenizer: Any) -> None:
    for text in [*TEXTS, "emoji 😀👍🏽", "\x00\x07", "  \t\r\n\n\n x  ", ""]:
        assert tokenizer.decode(ids_of(tokenizer, text)) == text
    assert set(tokenizer.decode([0xE5, 0x9B])) == {"\ufffd"}  # half of a character


def test_special_tokens_follow_the_ranks(tokenizer: Any, ranks: Ranks) -> None:
    assert len(SPECIAL_TOKENS) == 217 and len(CHAT_TOKENS) == 208
    assert len(tokenizer) == len(ranks) + 217
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(
        range(len(ranks), len(ranks) + 217)
    )
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == len(ranks)
    ids = ids_of(tokenizer, "<img><imgpad></img><ref>x</ref>")
    assert [i - len(ranks) for i in ids if i >= len(ranks)] == [214, 216, 215, 208, 209]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "x"
    assert TAGS[-1] == "<imgpad>"


def test_a_published_folder_is_recognised(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    assert has_tokenizer(folder)
    own = tmp_path / "published"
    own.mkdir()
    (own / FILE).write_bytes((folder / FILE).read_bytes())
    # As published: the class is code in the folder, which is neither run nor asked for.
    config = {
        "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
        "tokenizer_class": "QWenTokenizer",
    }
    (own / "tokenizer_config.json").write_text(json.dumps(config))
    (own / "tokenization_qwen.py").write_text("raise RuntimeError('code was run')")
    loaded = load_tokenizer(own)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    save_tokenizer(loaded, tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    for text in TEXTS:
        assert ids_of(again, text) == ids_of(tokenizer, text)
    assert again.pad_token_id == tokenizer.pad_token_id


def test_offsets_are_characters(tokenizer: Any) -> None:
    text = "  图 café 12\n\nNew"
    encoding = tokenizer(text, return_offsets_mapping=True)
    covered = [place for a, b in encoding["offset_mapping"] for place in range(a, b)]
    assert set(covered) == set(range(len(text)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: [*lines[:5], "%%% 5", *lines[6:]],
            r"line 6 of .* must be a token in base64",
        ),
        (lambda lines: [*lines[:5], "QQ==", *lines[6:]], "line 6 of"),
        (lambda lines: lines[1:], "ranks in .* must be 0, 1, 2"),
        (lambda lines: lines[:100], "every byte must have one, got 100 tokens"),
        (lambda lines: [], "got 0 tokens"),
    ],
)
def test_a_damaged_file(change: Any, message: str, folder: Path, tmp_path: Path) -> None:
    lines = (folder / FILE).read_text().splitlines()
    (tmp_path / FILE).write_text("\n".join(change(lines)))
    with pytest.raises(ValueError, match=message):
        load_qwen_tokenizer(tmp_path)


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer folder .* must hold qwen\.tiktoken"):
        load_qwen_tokenizer(tmp_path)


# --- Qwen's own file ----------------------------------------------------------------------------


def as_slots(text: str) -> str:
    """Paths between image tags as hdvl writes an image: 256 slots."""
    return re.sub("<img>.*?</img>", f"<img>{'<imgpad>' * 256}</img>", text)


def test_published_ids(published: Any) -> None:
    assert len(GOLDEN["texts"]) == 18
    for case in GOLDEN["texts"]:
        text = as_slots(case["text"])
        assert ids_of(published, text) == without_paths(case["ids"]), case["text"]
        if "<img>" not in case["text"]:
            composed = unicodedata.normalize("NFC", text)
            assert published.decode(case["ids"]) == composed


def test_published_special_ids(published: Any) -> None:
    assert len(published) == 151860
    for token, number in GOLDEN["special"].items():
        assert published.convert_tokens_to_ids(token) == number
        assert ids_of(published, token) == [number]
    assert published.convert_tokens_to_ids(["<|extra_0|>", "<|extra_204|>"]) == [151646, 151850]
    ends = [ids_of(published, stop) for stop in ("<|im_end|>", "<|im_start|>")]
    assert ends == GOLDEN["stop_words_ids"]
