"""Conversations longer than the context of the language model are refused in prompts, rows and plans."""

from typing import Any

import pytest
import torch
from PIL import Image

from hdvl.data.sizes import measure
from hdvl.decoding import generate
from hdvl.inference import Pipeline
from hdvl.llms.transformers_config import context_length
from hdvl.processor import Processor
from hdvl.protocols import Message
from tests.llms.tiny_llm import make
from tests.tiny_model import NODE, tiny_node, tiny_vlm

REFUSED = "must fit the context of the language model, 64 ids, got "


def short_node() -> dict[str, Any]:
    return tiny_node(llm={"config": {**NODE["llm"]["config"], "max_position_embeddings": 64}})


def test_prompts_and_rows_are_refused_with_the_context_named() -> None:
    vlm = tiny_vlm(short_node())
    processor = Processor.of(vlm)
    asked = Message("user", "word " * 80, (Image.new("RGB", (32, 32)),))
    with pytest.raises(ValueError, match=REFUSED):
        Pipeline(model=vlm).chat(asked.text, images=list(asked.images))
    row = [asked, Message("assistant", "yes")]
    with pytest.raises(ValueError, match=REFUSED):
        processor(row)
    with pytest.raises(ValueError, match=REFUSED):
        measure(processor, row)


def test_what_conversations_share_counts_once() -> None:
    processor = Processor.of(tiny_vlm(short_node()))
    processor.check_context(90, [20, 20, 20])
    with pytest.raises(ValueError, match=REFUSED + "65"):
        processor.check_context(95, [20, 10, 30])


@torch.no_grad()
def test_an_answer_ends_with_the_context() -> None:
    llm = make("gpt2", max_position_embeddings=10).eval()
    assert llm.context == 10
    prompt = torch.randn(1, 7, llm.width)
    assert generate(llm, prompt, max_new_tokens=50, stop_ids=[]).shape == (1, 3)
    with pytest.raises(
        ValueError, match="must leave room in the context of the language model, 10"
    ):
        generate(llm, torch.randn(1, 10, llm.width), max_new_tokens=1, stop_ids=[])


def test_rules_that_stretch_positions_stretch_the_context() -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}
    config = make("llama", max_position_embeddings=16, rope_parameters=rope).model.config
    assert context_length(config) == 64
    assert make("bloom").context is None
