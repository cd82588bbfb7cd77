"""Heat maps of what an answer looked at."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import hdvl
from hdvl.inference import Pipeline, attention
from hdvl.llms import CausalLM
from hdvl.llms.attention import answer_attention
from tests.inference.saying import say
from tests.llms.recurrent import Recurrent
from tests.tiny_model import tiny_node, tiny_vlm

IMAGE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
)  # 2 x 3 windows of 32 pixels and the thumbnail first

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
}


def test_the_known_weights_of_one_tile_are_drawn_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipeline(model=tiny_vlm(tiny_node(merger={"newline": False})))
    (plan,) = pipe.processor.limited(None)(
        pipe.conversation("Where?", IMAGE), add_generation_prompt=True
    ).plans
    chosen = [
        box[0] >= plan.boxes[5][0] - 1 and box[1] >= plan.boxes[5][1] - 1 and number >= 16
        for number, box in enumerate(pipe.model.merger.places(plan))  # type: ignore[attr-defined]
        if box is not None
    ]

    def known(llm: Any, embeddings: Tensor, count: int, layers: Any) -> Tensor:
        weights, seen = torch.zeros(embeddings.shape[1]), torch.tensor(chosen).float()
        slots = (embeddings[0, :, None] == tokens).all(-1).any(1)
        weights[slots] = 0.5 * seen / seen.sum()
        return weights

    sample = pipe.processor(pipe.conversation("Where?", IMAGE), add_generation_prompt=True)
    tokens = torch.cat(pipe.model.encode_images(sample.pixels, sample.plans))
    monkeypatch.setattr(attention, "answer_attention", known)
    (found,) = pipe.attention("Where?", IMAGE, answer="there")
    assert found.share == pytest.approx(0.5)
    assert found.tiles[4:] == pytest.approx([0.25, 0.25], abs=0.1)
    assert sum(found.tiles[:4]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("layers", [None, [-1]])
def test_weights_equal_those_of_one_eager_pass(layers: list[int] | None) -> None:
    pipe = Pipeline(model=tiny_vlm())
    llm: Any = pipe.model.llm
    kernel = llm.model.config._attn_implementation
    embeddings = torch.randn(1, 12, llm.width)
    with torch.inference_mode():
        weights = answer_attention(llm, embeddings, 4, layers)
        assert llm.model.config._attn_implementation == kernel
        llm.model.set_attn_implementation("eager")
        whole = llm.model(inputs_embeds=embeddings, output_attentions=True).attentions
    expected = torch.stack([whole[layer][0, :, 7:11].mean((0, 1)) for layer in layers or (0, 1)])
    torch.testing.assert_close(weights, expected.mean(0), atol=1e-5, rtol=1e-4)
    assert float(weights.sum()) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"layers must be in -2\.\.1, .* got \[2\]"):
        answer_attention(llm, embeddings, 4, [2])


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mistral", "sliding_window": 4},
        {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]},
    ],
)
def test_layers_with_a_window_or_without_attention(changes: dict[str, Any]) -> None:
    llm = CausalLM.from_config(config={**SIZES, **changes}).eval()
    embeddings = torch.randn(1, 12, 32)
    with torch.inference_mode():
        weights = answer_attention(llm, embeddings, 4)
        llm.model.set_attn_implementation("eager")
        whole = llm.model(inputs_embeds=embeddings, output_attentions=True).attentions
    layers = [layer[0, :, 7:11].mean((0, 1)) for layer in whole if layer is not None]
    torch.testing.assert_close(weights, torch.stack(layers).mean(0), atol=1e-5, rtol=1e-4)


def test_a_recurrent_model_is_refused() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    llm = CausalLM.from_config(config={"model_type": "mamba", **sizes}).eval()
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match="mamba of transformers returns none"),
    ):
        answer_attention(llm, torch.randn(1, 12, 32), 4)


@pytest.mark.parametrize(
    "merger",
    [
        {},
        {"_target_": "hdvl.mergers.Concat", "newline": None},
        {"_target_": "hdvl.mergers.OverlapBlend"},
    ],
)
def test_the_grid_sums_to_the_weight_of_tokens_that_show_the_image(merger: dict[str, Any]) -> None:
    node = tiny_node(merger=merger)
    if "newline" in merger:
        del node["merger"]["newline"]
    pipe = Pipeline(model=tiny_vlm(node))
    messages = pipe.conversation("Compare.", [IMAGE, IMAGE.rotate(90, expand=True)])
    say(pipe, "the first")
    maps = pipe.attention(messages)
    places = [pipe.model.merger.places(found.plan) for found in maps]  # type: ignore[attr-defined]
    for found, boxes in zip(maps, places, strict=True):
        limit = found.plan.width, found.plan.height
        shown = [
            box is not None and box[0] < limit[0] and box[1] < limit[1] and min(box[2:]) > 0
            for box in boxes
        ]
        assert found.share == pytest.approx(
            float(found.tokens[torch.tensor(shown)].sum()), rel=1e-4
        )
        assert 0 <= float(found.grid.min()) and float(found.grid.max()) <= 1
        assert found.draw().size == limit
    assert 0 < sum(float(found.tokens.sum()) for found in maps) < 1


@pytest.mark.slow
def test_the_shipped_model_looks_at_the_tile_of_its_answer() -> None:
    pipe, page = hdvl.load("hdvl/small"), Path(hdvl.__file__).parent / "assets" / "receipt.png"
    answer = pipe.chat("Where is the total?", page)
    (found,) = pipe.attention(answer.history[:-1], answer=answer.text)
    assert len(found.tokens) == pipe.model.merger.token_count(found.plan)
    assert found.share <= float(found.tokens.sum()) + 1e-5 <= 1
    windows = found.plan.boxes[found.plan.window_slice]
    x0, y0, x1, y1 = windows[found.tiles.index(max(found.tiles))]
    box = answer.boxes[0].box
    assert x0 < (box[0] + box[2]) / 2 < x1 and y0 < (box[1] + box[3]) / 2 < y1


def test_models_without_weights_or_places_are_refused() -> None:
    pipe = Pipeline(model=tiny_vlm())
    with pytest.raises(ValueError, match="attention needs an image in the conversation, got none"):
        pipe.attention("Hello", answer="yes")
    with pytest.raises(ValueError, match="at least one token, got an empty one"):
        pipe.attention("Hello", IMAGE, answer="")
    with pytest.raises(ValueError, match="images must be None where a conversation holds its"):
        pipe.attention(pipe.conversation("Hello", IMAGE), IMAGE)
    pipe.model.llm.rules = object()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="the position rules of Qwen-1 are part of a fused kernel"):
        pipe.attention("Hello", IMAGE)
    pipe.model.llm = Recurrent(tokenizer=pipe.tokenizer)
    with pytest.raises(ValueError, match="Recurrent is no CausalLM of transformers"):
        pipe.attention("Hello", IMAGE)
    bridge = {"_target_": "hdvl.bridges.Resampler", "_partial_": True, "num_queries": 4}
    node = tiny_node()
    node["bridge"] = bridge
    with pytest.raises(ValueError, match="each token of the bridge Resampler is a query"):
        Pipeline(model=tiny_vlm(node)).attention("Hello", IMAGE)
