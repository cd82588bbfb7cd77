"""Documents packed into one row equal each document alone, and need no mask."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional

from hdvl.llms import CausalLM
from hdvl.llms.segments import NAME, segment_attention, segment_options
from hdvl.protocols import lengths_of
from tests.llms.tiny_llm import make

LENGTHS = (5, 1, 9, 12)
# A document; one that three others begin with; another; one that two begin with, in one token.
SHARED = (4, (6, 3, 1, 5), 2, (1, 2, 2))


def gradients(llm: CausalLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    parameters = {name: p for name, p in llm.named_parameters() if "embed_tokens" not in name}
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("model_type", ["qwen2", "llama", "qwen3", "mistral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_logits_and_gradients_are_those_of_each_alone(model_type: str, checkpointing: bool) -> None:
    llm = make(model_type, tie_word_embeddings=False).train()
    embeddings = torch.randn(1, sum(LENGTHS), 32)
    apart = torch.cat([llm(part) for part in embeddings.split(LENGTHS, 1)], dim=1)
    expected = gradients(llm, apart.square().sum())
    if checkpointing:
        llm.model.activation_checkpointing_enable()
    packed = llm(embeddings, segments=LENGTHS)
    torch.testing.assert_close(packed, apart, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(llm, packed.square().sum()).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5)


def test_no_mask_is_built_and_no_attention_is_longer_than_a_document() -> None:
    llm, seen = make(), []
    real = functional.scaled_dot_product_attention

    def spy(query: Any, *inputs: Any, **options: Any) -> Any:
        seen.append((query.shape[2], options.get("attn_mask"), options["is_causal"]))
        return real(query, *inputs, **options)

    with patch.object(functional, "scaled_dot_product_attention", spy):
        llm(torch.randn(1, sum(LENGTHS), 32), segments=LENGTHS)
    assert seen == [(length, None, True) for length in LENGTHS] * 2


def test_another_document_changes_nothing() -> None:
    llm = make().eval()
    embeddings = torch.randn(1, sum(LENGTHS), 32)
    before = llm(embeddings, segments=LENGTHS)
    embeddings[:, 6:15] = torch.randn(9, 32)
    after = llm(embeddings, segments=LENGTHS)
    assert torch.equal(before[:, :6], after[:, :6]) and torch.equal(before[:, 15:], after[:, 15:])
    assert not torch.equal(before[:, 6:15], after[:, 6:15])


def test_the_head_is_computed_at_kept_positions_only() -> None:
    llm = make().eval()
    embeddings, keep = torch.randn(1, sum(LENGTHS), 32), torch.tensor([3, 4, 20])
    some = llm(embeddings, segments=LENGTHS, logits_to_keep=keep)
    torch.testing.assert_close(some, llm(embeddings, segments=LENGTHS)[:, keep])


def test_without_segments_it_equals_sdpa() -> None:
    llm = make().eval()
    embeddings, mask = torch.randn(2, 6, 32), torch.ones(2, 6, dtype=torch.long)
    ours = llm(embeddings, mask)
    assert llm.model.config._attn_implementation == NAME
    llm.model.set_attn_implementation("sdpa")
    assert torch.equal(ours, llm(embeddings, mask))


def written_out(row: torch.Tensor) -> list[torch.Tensor]:
    """Each document of SHARED by itself: its beginning and its own rest."""
    found, start = [], 0
    for segment in SHARED:
        head, *rests = (segment,) if isinstance(segment, int) else segment
        beginning, start = row[:, start : start + head], start + head
        for rest in rests:
            found.append(torch.cat([beginning, row[:, start : start + rest]], dim=1))
            start += rest
        if not rests:
            found.append(beginning)
    return found


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("model_type", ["qwen2", "llama", "qwen3", "mistral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_shared_prefix_equals_the_prefix_of_each(model_type: str, checkpointing: bool) -> None:
    llm = make(model_type, tie_word_embeddings=False).train()
    embeddings = torch.randn(1, sum(lengths_of(SHARED)), 32)
    apart = [llm(document) for document in written_out(embeddings)]
    # The beginning is there once: so is what it adds to the sum.
    heads = {2: 6, 3: 6, 6: 1}
    expected = gradients(
        llm, sum(logits[:, heads.get(n, 0) :].square().sum() for n, logits in enumerate(apart))
    )
    if checkpointing:
        llm.model.activation_checkpointing_enable()
    together = llm(embeddings, segments=SHARED)
    for ours, alone in zip(written_out(together), apart, strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(llm, together.square().sum()).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5)


def test_no_mask_is_larger_than_a_continuation_and_its_keys() -> None:
    llm, seen = make(), []
    real = functional.scaled_dot_product_attention

    def spy(query: Any, *inputs: Any, **options: Any) -> Any:
        mask = options["attn_mask"]
        seen.append((query.shape[2], None if mask is None else tuple(mask.shape)))
        return real(query, *inputs, **options)

    with patch.object(functional, "scaled_dot_product_attention", spy):
        llm(torch.randn(1, sum(lengths_of(SHARED)), 32), segments=SHARED)
    first = [(4, None), (6, None), (3, (3, 9)), (1, (1, 7)), (5, (5, 11))]
    assert seen == [*first, (2, None), (1, None), (2, (2, 3)), (2, (2, 3))] * 2


def test_only_hdvls_kernel_supports_shared_prefixes() -> None:
    llm = make()
    llm.model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match=r"sharing images .* got flash_attention_2; set .*indep"):
        llm(torch.randn(1, 6, 32), segments=((2, 2, 2),))
    llm = make(use_sliding_window=True, sliding_window=4, max_window_layers=0)
    llm(torch.randn(1, 6, 32), segments=((2, 2, 2),))
    with pytest.raises(ValueError, match="fit the sliding window of 4 tokens, the longest has 5"):
        llm(torch.randn(1, 6, 32), segments=((2, 1, 3),))


def test_wrong_segments_are_named() -> None:
    llm = make()
    wrong = ((1, (2, 3)), (2, (3, 3)), (1, (0, 6)), (1, ()), (1, ((3, 2),)), (1, ((), 6)))
    for rows, lengths in wrong:
        with pytest.raises(ValueError, match="segments must be lengths of at least 1 that fill"):
            llm(torch.randn(rows, 6, 32), segments=lengths)
    with pytest.raises(ValueError, match="segments say all"):
        llm(torch.randn(1, 6, 32), torch.ones(1, 6, dtype=torch.long), segments=(6,))


def test_models_that_cannot_keep_documents_apart_are_refused() -> None:
    llm = make()
    llm.model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"packing needs a model whose attention is .* got eager"):
        llm(torch.randn(1, 6, 32), segments=(4, 2))
    llm = make()
    llm.model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(
        ValueError, match=r"a model with attention layers only, qwen2 has .*linear_attention"
    ):
        llm(torch.randn(1, 6, 32), segments=(4, 2))


def test_what_the_kernel_does_not_know_is_refused() -> None:
    llm = make(use_sliding_window=True, sliding_window=4, max_window_layers=0)
    llm(torch.randn(1, 6, 32), segments=(4, 2))
    with pytest.raises(ValueError, match="fit the sliding window of 4 tokens, the longest has 5"):
        llm(torch.randn(1, 6, 32), segments=(5, 1))
    part, ends = torch.randn(1, 2, 3, 8), torch.tensor([0, 3])
    with pytest.raises(ValueError, match="packed attention does not support softcap"):
        segment_attention(None, part, part, part, None, cu_seq_lens_q=ends, softcap=30.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("groups", [2, 4])
def test_the_kernel_of_variable_lengths_agrees(groups: int) -> None:
    ends = torch.tensor([0, 5, 6, 40], dtype=torch.int32, device="cuda")
    inputs = [torch.randn(1, n, 40, 64, device="cuda").bfloat16() for n in (4, groups, groups)]
    fused = [part.clone().requires_grad_() for part in inputs]
    loops = [part.float().requires_grad_() for part in inputs]
    ours, _ = segment_attention(None, *fused, None, cu_seq_lens_q=ends, max_length_q=34)
    exact, _ = segment_attention(None, *loops, None, cu_seq_lens_q=ends, max_length_q=34)
    torch.testing.assert_close(ours.float(), exact, rtol=2e-2, atol=2e-2)
    ours.float().square().sum().backward()
    exact.square().sum().backward()
    for fast, slow in zip(fused, loops, strict=True):
        torch.testing.assert_close(fast.grad.float(), slow.grad, rtol=5e-2, atol=5e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_variable_length_kernel_supports_shared_prefixes() -> None:
    segments = (40, (300, 7, 130), (64, 200, 1))
    total = sum(lengths_of(segments))
    said = segment_options(make().model, torch.randn(1, total, 32, device="cuda"), segments)
    options = {name: said[name] for name in said if name not in ("attention_mask", "position_ids")}
    inputs = [torch.randn(1, n, total, 64, device="cuda").bfloat16() for n in (4, 2, 2)]
    fused = [part.clone().requires_grad_() for part in inputs]
    loops = [part.float().requires_grad_() for part in inputs]
    ours, _ = segment_attention(None, *fused, None, **options)
    exact, _ = segment_attention(None, *loops, None, **options)
    torch.testing.assert_close(ours.float(), exact, rtol=2e-2, atol=2e-2)
    ours.float().square().sum().backward()
    exact.square().sum().backward()
    for fast, slow in zip(fused, loops, strict=True):
        torch.testing.assert_close(fast.grad.float(), slow.grad, rtol=5e-2, atol=5e-2)
