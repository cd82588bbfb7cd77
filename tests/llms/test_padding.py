"""Padded batches: each row equals the row alone, and no (s, s) mask is built."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional

from hdvl.decoding import generate
from hdvl.llms.padding import attend_without_padding
from tests.llms.tiny_llm import make

ROWS = (
    (0, 0, 0, 1, 1, 1, 1, 1),  # padded on the left
    (1, 1, 1, 1, 1, 0, 0, 0),  # on the right
    (0, 1, 1, 0, 0, 1, 1, 0),  # anywhere
    (1, 1, 1, 1, 1, 1, 1, 1),
)


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


@pytest.mark.parametrize("model_type", ["qwen2", "llama", "qwen3", "mistral"])
def test_each_row_is_what_it_is_alone(model_type: str) -> None:
    llm = make(model_type, **({"sliding_window": None} if model_type == "mistral" else {})).eval()
    embeddings, mask = torch.randn(len(ROWS), 8, 32, requires_grad=True), torch.tensor(ROWS)
    together = llm(embeddings, mask, positions(mask))
    alone = torch.cat(
        [llm(row[own][None])[0] for row, own in zip(embeddings, mask.bool(), strict=True)]
    )
    torch.testing.assert_close(together[mask.bool()], alone, rtol=1e-5, atol=1e-5)
    (ours,) = torch.autograd.grad(together[mask.bool()].square().sum(), embeddings)
    (theirs,) = torch.autograd.grad(alone.square().sum(), embeddings)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("window", "masked"), [(None, False), (4, True)])
def test_only_a_sliding_window_has_a_mask(window: int | None, masked: bool) -> None:
    llm, seen = make("mistral", sliding_window=window).eval(), []
    real = functional.scaled_dot_product_attention

    def spy(query: Any, *inputs: Any, **options: Any) -> Any:
        seen.append((query.shape[2], options.get("attn_mask") is not None))
        return real(query, *inputs, **options)

    with patch.object(functional, "scaled_dot_product_attention", spy):
        llm(torch.randn(2, 8, 32), torch.tensor(ROWS[:2]))
    assert seen == ([(8, True)] * 2 if masked else [(5, False)] * 4)


def test_greedy_answers_of_a_padded_batch_are_those_of_each_alone() -> None:
    llm, mask = make("qwen2").eval(), torch.tensor((ROWS[0], ROWS[3]))
    embeddings = torch.randn(2, 8, 32)
    batch = generate(llm, embeddings, mask, max_new_tokens=6, stop_ids=[])
    alone = [
        generate(llm, row[own][None], max_new_tokens=6, stop_ids=[])
        for row, own in zip(embeddings, mask.bool(), strict=True)
    ]
    assert torch.equal(batch, torch.cat(alone))
    assert len(set(batch.flatten().tolist())) > 2


def test_a_row_of_padding_alone_is_zero() -> None:
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    padding = torch.tensor([[0] * 5, [1] * 5])
    attended = attend_without_padding(query, key, key, padding)
    assert attended.shape == (2, 5, 4, 8)
    assert attended[0].abs().max() == 0 and attended[1].abs().min() > 0
