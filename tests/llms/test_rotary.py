"""Rotary rules that depend on the length: the logits of a document do not depend on others in its batch."""

from typing import Any

import pytest
import torch

from hdvl.decoding import generate
from hdvl.llms import CausalLM
from tests.llms.tiny_llm import make

DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "rope_theta": 100.0,
    "original_max_position_embeddings": 10,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 10}),
    "gpt_neox": (
        "gpt_neox",
        {
            "rope_parameters": {**DYNAMIC, "partial_rotary_factor": 1.0},
            "max_position_embeddings": 10,
        },
    ),
    "phi3": (
        "phi3",
        {
            "rope_parameters": LONG,
            "max_position_embeddings": 40,
            "original_max_position_embeddings": 10,
            "pad_token_id": 0,
        },
    ),
    "yarn": ("llama", {"rope_parameters": YARN, "max_position_embeddings": 40}),
}
LENGTHS = (5, 17, 12)


@pytest.fixture(params=list(FAMILIES))
def llm(request: pytest.FixtureRequest) -> CausalLM:
    family, numbers = FAMILIES[request.param]
    torch.manual_seed(0)
    return make(family, initializer_range=0.4, **numbers).eval()


def documents(llm: CausalLM) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, length, llm.width, generator=generator) for length in LENGTHS]


def fresh(llm: CausalLM, document: torch.Tensor) -> torch.Tensor:
    """The logits of transformers itself, of a model that has seen nothing before."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(llm.model.config).eval()
    model.load_state_dict(llm.model.state_dict())
    logits: torch.Tensor = model(inputs_embeds=document, use_cache=False).logits
    return logits


@pytest.mark.slow_beyond(1)
@torch.no_grad()
def test_packs_and_batches_change_nothing(llm: CausalLM) -> None:
    own = documents(llm)
    alone = [fresh(llm, document) for document in own]
    packed = llm(torch.cat(own, 1), segments=LENGTHS)
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=1e-4, atol=1e-4)
    longest = max(LENGTHS)
    for left in (True, False):
        rows, mask = torch.zeros(3, longest, llm.width), torch.zeros(3, longest, dtype=torch.long)
        places = [slice(longest - n, longest) if left else slice(n) for n in LENGTHS]
        for row, (document, place) in enumerate(zip(own, places, strict=True)):
            rows[row, place], mask[row, place] = document[0], 1
        logits = llm(rows, mask)
        for row, (expected, place) in enumerate(zip(alone, places, strict=True)):
            torch.testing.assert_close(logits[row, place], expected[0], rtol=1e-4, atol=1e-4)
        if left:
            together = generate(llm, rows, mask, max_new_tokens=6, stop_ids=[])
            each = [generate(llm, document, max_new_tokens=6, stop_ids=[]) for document in own]
            assert together.tolist() == torch.cat(each).tolist()


@torch.no_grad()
def test_a_prompt_read_in_parts_goes_by_its_whole_length(llm: CausalLM) -> None:
    document = documents(llm)[1]
    cache = llm.new_cache(prompt_lengths=[17])
    parts = [llm(document[:, :6], cache=cache), llm(document[:, 6:], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, 1), fresh(llm, document), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_conversations_that_share_images_stay_below_the_change() -> None:
    family, numbers = FAMILIES["llama"]
    llm = make(family, **numbers).eval()
    embeddings = torch.randn(1, 12, llm.width)
    llm(embeddings, segments=[(4, 2, 6)])
    with pytest.raises(
        ValueError, match="must fit the 10 positions from which the rotary frequenc"
    ):
        llm(embeddings, segments=[(4, 1, 7)])
