"""Attention of torch and of transformers goes through the function that is replaced."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hdvl.compat.torch import (
    BatchNorm,
    TorchDispatchMode,
    attention_replaced,
    compile_backend,
    recompile_limit,
    variable_length_attention,
)
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


def _documents(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scale: float) -> Tensor:
    """Each document by itself, in float32."""
    groups, out = query.shape[1] // key.shape[1], []
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        scores = torch.einsum("qhd,khd->hqk", query[first:last], key[first:last]) * scale
        hidden = torch.ones(last - first, last - first).triu(1).bool()
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        out.append(torch.einsum("hqk,khd->qhd", weights, value[first:last]))
    return torch.cat(out)


def _kernel_2_10(query, key, value, ends, ends_k, longest, longest_k, is_causal=False):  # type: ignore[no-untyped-def]
    assert is_causal
    assert query.shape[1] == key.shape[1]
    return _documents(query, key, value, ends, query.shape[-1] ** -0.5)


def _kernel_2_11(  # type: ignore[no-untyped-def]
    query, key, value, ends, ends_k, longest, longest_k, *, scale=None, window_size=(-1, -1)
):
    assert window_size == (-1, 0)
    assert query.shape[1] == key.shape[1]
    return _documents(query, key, value, ends, scale or query.shape[-1] ** -0.5)


def _kernel_2_12(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    ends,
    ends_k,
    longest,
    longest_k,
    *,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
):
    assert window_size == (-1, 0)
    assert enable_gqa == (query.shape[1] != key.shape[1])
    return _documents(query, key, value, ends, scale or query.shape[-1] ** -0.5)


@pytest.mark.parametrize("kernel", [_kernel_2_10, _kernel_2_11, _kernel_2_12])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("groups", [4, 2])
def test_each_release_of_the_variable_length_kernel_gets_its_own_arguments(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., Tensor], scale: float | None, groups: int
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    ends = torch.tensor([0, 2, 5], dtype=torch.int32)
    query, key, value = (torch.randn(5, heads, 8) for heads in (4, groups, groups))
    found = variable_length_attention(query, key, value, (ends, ends), (3, 3), scale)
    torch.testing.assert_close(
        found, _documents(query, key, value, ends, 8**-0.5 if scale is None else scale)
    )


def test_the_kernel_of_this_release_has_arguments_that_are_known() -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    names = inspect.signature(varlen.varlen_attn).parameters
    assert "is_causal" in names or "window_size" in names


def test_batch_norms_have_a_common_class_that_other_norms_have_not() -> None:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LazyBatchNorm2d)
    assert all(issubclass(kind, BatchNorm) for kind in kinds)
    assert not issubclass(nn.LayerNorm, BatchNorm) and not issubclass(nn.GroupNorm, BatchNorm)
    assert {"running_mean", "momentum"} <= vars(nn.BatchNorm2d(3)).keys() | dict(
        nn.BatchNorm2d(3).named_buffers()
    ).keys()


def test_a_dispatch_mode_sees_every_operation() -> None:
    seen = list[str]()

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Mode():  # type: ignore[no-untyped-call]
        torch.ones(2) + 1
    assert seen == ["ones", "add"]


def test_a_backend_is_a_function_of_a_graph_and_its_inputs() -> None:
    inputs = [torch.ones(2)]
    graph = torch.fx.symbolic_trace(nn.ReLU())
    assert torch.equal(compile_backend("eager")(graph, inputs)(*inputs), torch.ones(2))
