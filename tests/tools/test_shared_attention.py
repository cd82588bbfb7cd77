"""Attention of many questions about an image: the same numbers as that of each, and what learns."""

import pytest
import torch
from shared_attention import positions_of, rows_of, use_shared_attention

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
