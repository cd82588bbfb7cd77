"""A language model without transformers supports all functions through the protocol."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hdvl.checkpoints import load_folder
from hdvl.checkpoints.exporters.target import language_model
from hdvl.inference import Pipeline
from hdvl.model import VLM
from hdvl.processor import Processor, pack
from hdvl.protocols import LLM, Message
from hdvl.training.estimate import measure
from hdvl.training.run import run
from hdvl.training.tuning import apply_tuning, merge_lora
from tests.llms.recurrent import Recurrent
from tests.tiny_model import tiny_node, tiny_vlm
from tests.training import runs

TARGET = f"{Recurrent.__module__}.{Recurrent.__qualname__}"
NODE = {
    "_target_": TARGET,
    "width": 32,
    "tokenizer": {"_target_": "hdvl.llms.build_tokenizer", "vocab_size": 320},
}


def node() -> dict[str, Any]:
    composed = tiny_node()
    composed["llm"] = NODE
    return composed


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return tiny_vlm(node())


def messages(answer: str | None = None) -> list[Message]:
    asked = Message("user", "Colour?", (Image.new("RGB", (40, 32), (255, 0, 0)),))
    return [asked] if answer is None else [asked, Message("assistant", answer)]


def test_it_is_an_llm(vlm: VLM) -> None:
    assert isinstance(vlm.llm, LLM) and isinstance(vlm.llm, Recurrent)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data": {"packing": {"tokens": 200, "tiles": 20, "window": 4}}},
        {"tuning": {"llm": "lora", "new_tokens": "full"}},
    ],
    ids=["full", "packed", "lora"],
)
def test_it_trains_saves_loads_and_answers(tmp_path: Path, changes: dict[str, Any]) -> None:
    plain = runs.config(tmp_path / "run", "trainer.max_steps=2", "llm=tiny")
    plain["llm"] = NODE
    for name, values in changes.items():
        plain[name] |= values
    run(plain, runs.Feeder())
    vlm = load_folder(tmp_path / "run" / "model", allow=["tests"])
    assert isinstance(vlm.llm, Recurrent)
    assert Pipeline(model=vlm).chat("Colour?", max_new_tokens=3).numbers.new_tokens <= 3


def test_packed_documents_are_read_as_alone(vlm: VLM) -> None:
    processor = Processor.of(vlm)
    samples = [processor(messages(answer)) for answer in ("red", "It is quite red.")]
    alone = []
    for sample in samples:
        out = vlm(sample.ids[None], sample.pixels, sample.plans)
        alone.append(out.logits[0])
    batch = pack(samples)
    packed = vlm(batch.input_ids, batch.pixels, batch.plans, segments=batch.segments)
    torch.testing.assert_close(packed.logits[0], torch.cat(alone))
    with pytest.raises(ValueError, match="a recurrent model cannot share images among conv"):
        vlm(
            batch.input_ids,
            batch.pixels,
            batch.plans,
            segments=[(5, 2, batch.input_ids.numel() - 7)],
        )


def test_a_prompt_may_be_read_in_parts(vlm: VLM) -> None:
    sample = Processor.of(vlm)(messages(), add_generation_prompt=True)
    whole = vlm(sample.ids[None], sample.pixels, sample.plans).logits
    cache, none = vlm.llm.new_cache(), sample.pixels[:0]
    place = int((sample.ids == vlm.image_token_id).nonzero()[-1]) + 1
    first = vlm(sample.ids[None, :place], sample.pixels, sample.plans, cache=cache).logits
    rest = vlm(sample.ids[None, place:], none, [], cache=cache).logits
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    assert cache.get_seq_length() == len(sample.ids)


@pytest.mark.slow
def test_adapters_and_estimates_use_the_backbone() -> None:
    vlm = tiny_vlm(node())
    modes = {"encoder": "frozen", "bridge": "frozen", "merger": "frozen", "llm": "lora"}
    lora = {"common": {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear"}}
    apply_tuning(vlm, {**modes, "lora": lora})
    adapted = {name for name, parameter in vlm.named_parameters() if parameter.requires_grad}
    assert adapted and all(name.startswith("llm.backbone.step.lora_") for name in adapted)
    merge_lora(vlm)
    with torch.device("meta"):
        empty = tiny_vlm(node())
    cost = measure(empty, empty.tiler.plan(40, 32), text_tokens=4)
    assert cost.forward["llm"] > 0 and cost.step > sum(cost.forward.values())


def test_it_cannot_be_exported(vlm: VLM) -> None:
    assert language_model(vlm)[1] == ["llm is Recurrent, not a causal model of transformers"]
