"""Attention of many questions about an image: the same numbers as that of each, and what learns."""

import pytest
import torch
from shared_attention import attend, positions_of, rows_of, use_shared_attention

from hdvl.checkpoints.sources import ASSETS
from hdvl.inference.load import load
from hdvl.llms.segments import segment_options
from hdvl.model import VLM


@pytest.fixture
def vlm() -> VLM:
    return load(ASSETS / "small").model


def test_attention_of_questions_at_once_is_that_of_each(vlm: VLM) -> None:
    inner, segments = vlm.llm.model, ((7, 3, 5), (4, 2, 1, 2))
    rows = torch.randn(1, 24, vlm.llm.width)
    options = segment_options(inner, rows, segments)
    assert torch.equal(positions_of(segments)[None], options["position_ids"])
    with torch.no_grad():
        each = inner.model(inputs_embeds=rows, use_cache=False, **options).last_hidden_state
        use_shared_attention(inner)
        places = {"position_ids": options["position_ids"], "rows": rows_of(segments)}
        at_once = inner.model(inputs_embeds=rows, use_cache=False, **places).last_hidden_state
    torch.testing.assert_close(each, at_once, atol=1e-4, rtol=1e-4)
    with pytest.raises(
        ValueError, match="must be a prefix with its questions, got one of 5 tokens"
    ):
        rows_of((5,))


def test_long_prefixes_are_read_without_gradients(
    vlm: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_shared_attention(vlm.llm.model)
    segments, slopes = ((7, 3, 5),), list[torch.Tensor]()
    for most in (7, 6):
        monkeypatch.setattr("shared_attention.LONG", most)
        rows = torch.randn(1, 15, vlm.llm.width, requires_grad=True)
        places = {"position_ids": positions_of(segments)[None], "rows": rows_of(segments)}
        states = vlm.llm.model.model(inputs_embeds=rows, use_cache=False, **places)
        states.last_hidden_state[0, 7:].pow(3).sum().backward()
        assert rows.grad is not None
        slopes.append(rows.grad[0].abs().sum(-1))
    assert bool((slopes[0] > 0).all())
    assert bool((slopes[1][:7] == 0).all() and (slopes[1][7:] > 0).all())


def test_outputs_and_gradients_are_those_of_masked_attention() -> None:
    segments, scaling = ((9, 3, 5, 1), (4, 2)), 0.3
    count = sum(map(sum, segments))
    seen, start = torch.zeros(count, count, dtype=torch.bool), 0
    for first, *questions in segments:
        seen[start : start + first, start : start + first] = True
        begin = start + first
        for length in questions:
            seen[begin : begin + length, start : start + first] = True
            seen[begin : begin + length, begin : begin + length] = True
            begin += length
        start = begin
    seen = seen.tril()
    torch.manual_seed(1)
    parts = [torch.randn(1, 2, count, 8, requires_grad=True) for _ in range(3)]
    weights = torch.randn(1, count, 2, 8)
    q, k, v = parts
    scores = (scaling * q @ k.transpose(2, 3)).masked_fill(~seen, -torch.inf)
    expected = (scores.softmax(-1) @ v).transpose(1, 2)
    wanted = torch.autograd.grad((expected * weights).sum(), parts)
    found, _ = attend(None, q, k, v, None, scaling=scaling, rows=rows_of(segments))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), parts), wanted)
