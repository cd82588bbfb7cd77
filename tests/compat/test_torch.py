"""Attention of torch and of transformers goes through the function that is replaced."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hdvl.compat.torch import attention_replaced, recompile_limit
from tests.tiny_model import tiny_vlm


def counted(run: Callable[[], object]) -> int:
    """How often ``run`` calls the attention."""
    calls = []

    def by(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        calls.append(query.shape)
        return query.new_zeros((*query.shape[:-1], value.shape[-1]))

    with attention_replaced(by):
        run()
    return len(calls)


def test_multihead_attention_in_evaluation_is_seen() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    states = torch.zeros(1, 3, 8)
    with torch.no_grad():  # where it would take the fast path
        assert counted(lambda: layer(states, states, states, need_weights=False)) == 1


def test_the_language_model_is_seen() -> None:
    llm = tiny_vlm().llm
    layers = llm.model.config.num_hidden_layers
    assert counted(lambda: llm(llm.embed(torch.tensor([[1, 2, 3]])))) == layers


def test_everything_is_put_back() -> None:
    kernel, fast = functional.scaled_dot_product_attention, torch.backends.mha
    was_fast = fast.get_fastpath_enabled()
    with pytest.raises(RuntimeError, match="inside"), attention_replaced(lambda *_: None):
        assert functional.scaled_dot_product_attention is not kernel
        raise RuntimeError("inside")
    assert functional.scaled_dot_product_attention is kernel
    assert fast.get_fastpath_enabled() == was_fast


def test_the_limit_of_recompilations_is_put_back() -> None:
    before = torch._dynamo.config.recompile_limit
    with pytest.raises(RuntimeError, match="inside"), recompile_limit(before + 1):
        assert torch._dynamo.config.recompile_limit == before + 1
        with recompile_limit(1):
            assert torch._dynamo.config.recompile_limit == before + 1
        raise RuntimeError("inside")
    assert torch._dynamo.config.recompile_limit == before
