"""Prompts read in parts, and answers decoded with a cache, equal those computed at once."""

import pytest
import torch

from hdvl.config import build
from hdvl.decoding import generate
from hdvl.llms import CausalLM, Qwen1Rules
from hdvl.protocols import Cache
from tests.llms.tiny_llm import make


def decoded(
    llm: CausalLM, prompts: torch.Tensor, mask: torch.Tensor | None, cuts: list[int]
) -> list[list[int]]:
    """Five greedy ids of each row, the prompts read in pieces that end at ``cuts``."""
    cache, ids, read = llm.new_cache(), list[torch.Tensor](), 0
    ones = torch.ones(len(prompts), 1, dtype=torch.long)
    for piece in (*torch.tensor_split(prompts, cuts, dim=1), None, None, None, None):
        step = llm.embed(ids[-1]) if piece is None else piece
        read += step.shape[1]
        if mask is not None and piece is None:
            mask = torch.cat([mask, ones], 1)
        seen = None if mask is None else mask[:, :read]
        logits = llm(step, seen, cache=cache)
        if read >= prompts.shape[1]:
            ids.append(logits[:, -1:].argmax(-1))
    assert isinstance(cache, Cache) and cache.get_seq_length() == prompts.shape[1] + 4
    return torch.cat(ids, 1).tolist()


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma3_text"])
@torch.no_grad()
def test_steps_with_a_cache_equal_generate(family: str) -> None:
    torch.manual_seed(0)
    llm = make(family, initializer_range=0.3).eval()
    prompts = torch.randn(2, 9, llm.width)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    for padding in (None, mask):
        expected = generate(llm, prompts, padding, max_new_tokens=5, stop_ids=[]).tolist()
        for cuts in ([], [4], [1, 2, 7]):
            assert decoded(llm, prompts, padding, cuts) == expected


@torch.no_grad()
def test_logits_after_a_cache_equal_those_of_the_whole_text() -> None:
    torch.manual_seed(0)
    llm = make("qwen2").eval()
    prompts, cache = torch.randn(2, 9, llm.width), llm.new_cache()
    parts = [llm(prompts[:, :4], cache=cache), llm(prompts[:, 4:], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, 1), llm(prompts))
    cache.reorder_cache(torch.tensor([1]))
    one = llm(prompts[1:, :1], cache=cache)
    torch.testing.assert_close(one, llm(torch.cat([prompts, prompts[:, :1]], 1))[1:, -1:])


def test_masks_and_segments_beside_a_cache() -> None:
    llm = make("qwen2").eval()
    prompts, cache = torch.randn(1, 4, llm.width), llm.new_cache()
    llm(prompts, cache=cache)
    with pytest.raises(
        ValueError, match="attention_mask must cover the cache and the embeddings, 8"
    ):
        llm(prompts, torch.ones(1, 4, dtype=torch.long), cache=cache)
    with pytest.raises(
        ValueError, match="segments say all, give no attention_mask, no position_ids"
    ):
        llm(prompts, segments=[4], cache=cache)


def test_families_with_other_states_are_refused() -> None:
    with pytest.raises(
        ValueError, match="a cache of keys and values is needed, rwkv keeps what it"
    ):
        make("rwkv", attention_hidden_size=32).new_cache()


@torch.no_grad()
def test_rules_by_length_take_the_length_of_the_whole_prompt() -> None:
    torch.manual_seed(0)
    rules = Qwen1Rules(seq_length=4)
    llm = CausalLM(model=make("qwen2").model, rules=rules).eval()
    prompts = torch.randn(1, 11, llm.width)
    cache = llm.new_cache(prompt_lengths=[11])
    parts = [llm(prompts[:, :3], cache=cache), llm(prompts[:, 3:], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, 1), llm(prompts))


def test_the_node_of_a_model_builds_it_again() -> None:
    llm = CausalLM(model=make("qwen2").model, stop_ids=[3], rules=Qwen1Rules(seq_length=4))
    node = llm.config_node()
    again = build(node)
    assert node["_target_"] == "hdvl.llms.CausalLM.from_config" and "tokenizer" not in node
    assert again.config_node() == node and again.rules == llm.rules and again.stop_ids == (3,)
    shapes = {name: value.shape for name, value in llm.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes
