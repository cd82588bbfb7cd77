"""Published vocabularies keep their number of rows, because they contain all tokens of the template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hdvl.config import build, compose
from hdvl.llms import CausalLM, build_tokenizer, load_tokenizer, save_tokenizer
from hdvl.protocols import Message
from hdvl.templates import encode, stop_ids
from tests.llms.rank_files import learn_ranks, write_ranks

SHAPE = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 8,
}
# In the order of the published files; the nine tags that training added stand last.
HERMES = [
    "<unk>",
    "<|startoftext|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
]
HERMES_ADDED = ["<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
XVERSE = ["<unk>", "<pad>", "<|startoftext|>", "<|endoftext|>"]


def llm_of(folder: Path, **tokens: str) -> CausalLM:
    return CausalLM.from_config(config=SHAPE, tokenizer=load_tokenizer(folder, **tokens))


def save(folder: Path, special: Sequence[str], added: Sequence[str], eos: str) -> Path:
    tokenizer = build_tokenizer(special_tokens=special, pad_token=special[0], eos_token=eos)
    tokenizer.add_tokens(list(added), special_tokens=True)
    save_tokenizer(tokenizer, folder)
    return folder


def asked(llm: CausalLM, template: Any) -> list[int]:
    messages = [Message("user", "<image>\nWhat?", ("a",))]
    ids: list[int] = encode(
        template, llm.tokenizer, messages, [256], add_generation_prompt=True
    ).ids.tolist()
    return ids


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("choice", ["qwen_vl", "qwen_vl_base"])
def test_qwen_vl(choice: str, tmp_path: Path) -> None:
    llm = llm_of(write_ranks(tmp_path, learn_ranks()))
    rows = llm.rows
    template = build(compose(f"template={choice}").template)
    assert llm.add_tokens(template.special_tokens) == 0 and llm.rows == rows
    start, end, slot = llm.tokenizer.convert_tokens_to_ids(["<img>", "</img>", "<imgpad>"])
    ids = asked(llm, template)
    first = ids.index(start)
    assert ids[first : first + 258] == [start, *[slot] * 256, end]
    ends = {"qwen_vl": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]}.get(
        choice, ["<|endoftext|>"]
    )
    assert stop_ids(template, llm.tokenizer) == llm.tokenizer.convert_tokens_to_ids(ends)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("choice", ["hermes2", "hermes2_v2"])
def test_internvl_chat(choice: str, tmp_path: Path) -> None:
    llm = llm_of(save(tmp_path, HERMES, HERMES_ADDED, "<|im_end|>"))
    rows = llm.rows
    template = build(compose(f"template={choice}").template)
    assert llm.add_tokens(template.special_tokens) == 0 and llm.rows == rows
    ids = asked(llm, template)
    slot = llm.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert slot == rows - 7 and ids.count(slot) == 256
    assert stop_ids(template, llm.tokenizer) == [llm.tokenizer.eos_token_id] == [4]


def test_xverse_v(tmp_path: Path) -> None:
    """Only its placeholder is not in the published vocabulary, and is added."""
    folder = save(tmp_path, XVERSE, [], "<|startoftext|>")
    llm = llm_of(folder, pad_token="<pad>", eos_token="<|endoftext|>")
    template = build(compose("template=xverse").template)
    vocabulary = llm.tokenizer.get_vocab()
    assert [t for t in template.special_tokens if t not in vocabulary] == ["<ImageHere>"]
    assert (llm.tokenizer.pad_token_id, stop_ids(template, llm.tokenizer)) == (1, [3])
