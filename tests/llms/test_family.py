"""Checks of how families handle embeddings, padding and packs; unsupported families are refused by name."""

import logging
from typing import Any

import pytest
import torch

from hdvl.decoding import generate
from hdvl.llms import CausalLM, probe
from hdvl.llms.building import _note_eager
from tests.llms.tiny_llm import make

DECODER = {"is_decoder": True}
BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
DEEPSEEK = {
    **{"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8},
    **{"qk_nope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    **{"index_head_dim": 16, "index_n_heads": 2, "index_topk": 8},
}
GEMMA4 = {"vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8, "head_dim": 8}
GEMMA3N = {**GEMMA4, "laurel_rank": 4, "num_kv_shared_layers": 0}
FALCON = {
    **{"mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64},
    **{"mamba_chunk_size": 8, "embedding_multiplier": 5.0},
}


@pytest.mark.parametrize(
    ("family", "numbers"),
    [("falcon_h1", FALCON), ("gemma3n_text", GEMMA3N), ("gemma4_text", GEMMA4)],
)
def test_families_that_need_ids_besides_embeddings(family: str, numbers: Any) -> None:
    with pytest.raises(
        ValueError, match=f"must read embeddings as it reads ids, {family} does more"
    ):
        make(family, **numbers)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("family", "numbers"),
    [("roberta", DECODER), ("data2vec-text", DECODER), ("bart", BART), ("stablelm", {})],
)
def test_families_that_cannot_be_packed_are_refused_by_name(family: str, numbers: Any) -> None:
    llm = make(family, **numbers).eval()
    embeddings = torch.randn(1, 6, llm.width)
    with pytest.raises(
        ValueError, match=f"same logits for packed documents as for each alone, {family}"
    ):
        llm(embeddings, segments=[2, 4])
    assert llm(embeddings).isfinite().all()


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "megatron-bert"])
def test_families_whose_tokens_see_later_ones_are_refused_by_name(family: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{family} sees them: .* off by .*set llm\.config\.is_decoder=true"
    ):
        make(family)
    assert make(family, **DECODER).model.config.is_decoder


def test_a_family_that_reads_padding_with_its_own_attention_alone_keeps_it() -> None:
    llm = make("doge").eval()
    assert llm.model.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="packing needs a model whose attention is hdvl_segments"):
        llm(torch.randn(1, 6, llm.width), segments=[2, 4])


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("family", "numbers"), [("gemma2", {}), ("gptj", {"rotary_dim": 4}), ("bloom", {})]
)
def test_attention_without_sdpa_is_eager_and_said_once(
    family: str, numbers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _note_eager.cache_clear()
    with caplog.at_level(logging.WARNING, logger="hdvl.llms"):
        llm = make(family, **numbers).eval()
        make(family, **numbers)
    said = [record.getMessage().split(",")[0] for record in caplog.records]
    assert said.count(f"the attention of {family} is eager") == 1
    with pytest.raises(ValueError, match="packing needs a model whose attention is hdvl_segments"):
        llm(torch.randn(1, 6, llm.width), segments=[2, 4])


@pytest.mark.slow_beyond(1)
@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "numbers"), [("deepseek_v32", DEEPSEEK), ("doge", {}), ("qwen2", {})]
)
def test_padded_batches_are_read_row_by_row(family: str, numbers: Any) -> None:
    torch.manual_seed(0)
    llm = make(family, initializer_range=0.3, **numbers).eval()
    short, long = torch.randn(1, 3, llm.width), torch.randn(1, 5, llm.width)
    rows, mask = torch.cat([torch.zeros(1, 5, llm.width), long]), torch.ones(2, 5, dtype=torch.long)
    rows[0, :3], mask[0, 3:] = short[0], 0
    torch.testing.assert_close(llm(rows, mask)[0, :3], llm(short)[0], rtol=1e-4, atol=1e-4)


def test_families_that_cannot_be_padded_are_refused_by_name() -> None:
    llm = make("bart", **BART).eval()
    rows, mask = torch.randn(2, 5, llm.width), torch.ones(2, 5, dtype=torch.long)
    llm(rows, mask)
    mask[0, :2] = 0
    with pytest.raises(
        ValueError,
        match="rows must have equal lengths, since bart gives other logits for rows padded on",
    ):
        llm(rows, mask)
    alone = [generate(llm, rows[:1, 2:], max_new_tokens=2, stop_ids=[])]
    alone += [generate(llm, rows[1:], max_new_tokens=2, stop_ids=[])]
    assert torch.equal(generate(llm, rows, mask, max_new_tokens=2, stop_ids=[]), torch.cat(alone))


def test_each_family_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    random_copy = probe.random_copy
    monkeypatch.setattr(
        probe, "random_copy", lambda config: built.append(config) or random_copy(config)
    )
    monkeypatch.setattr(probe, "_ANSWERS", {})
    monkeypatch.setattr(probe, "_COPIES", {})
    state = torch.random.get_rng_state()
    with torch.device("meta"):
        make("llama", initializer_range=0.1)
    first = len(built)
    llm = make("llama", initializer_range=0.1)
    assert first == len(built) == 1 and isinstance(llm, CausalLM)
    with torch.device("meta"):
        make("llama", initializer_range=0.1)
    assert len(built) == 1, "the copy of a small model answers all questions"
    torch.random.set_rng_state(state)


def test_large_models_are_checked_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SMALL", 0)
    llm = make("bart", **BART, initializer_range=0.3).train()
    with pytest.raises(
        ValueError, match="same logits for packed documents as for each alone, bart does"
    ):
        llm(torch.randn(1, 6, llm.width), segments=[2, 4])
    assert all(module.training for module in llm.modules())
    with torch.device("meta"):
        later = make("falcon_h1", **FALCON)
    later.to_empty(device="cpu")
    for parameter in later.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for buffer in later.buffers():  # to_empty leaves them as the memory was
        buffer.fill_(0.1)
    with pytest.raises(
        ValueError, match="must read embeddings as it reads ids, falcon_h1 does more"
    ):
        later(torch.randn(1, 6, later.width))


def test_embeddings_of_the_caller_stay_as_they_are() -> None:
    """The forward pass of CTRL in transformers scales them where they are."""
    llm = make("ctrl", n_embd=32, n_layer=2, n_head=4, dff=48).eval()
    embeddings = torch.randn(1, 5, llm.width)
    before = embeddings.clone()
    with torch.no_grad():
        first, second = llm(embeddings), llm(embeddings)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    generate(llm, embeddings, max_new_tokens=2, stop_ids=[])
    torch.testing.assert_close(embeddings, before, rtol=0, atol=0)
