"""Models whose images have views of several sizes, and text between their visual tokens."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hdvl
from hdvl.model import VLM
from hdvl.processor import Processor, collate, pack
from hdvl.protocols import Message

ENCODER = ["encoder=timm", "encoder.name=vit_tiny_patch16_224", "encoder.tile_size=32"]
TAGS = ["merger=concat", "merger.tags.before_tile='<r{row}c{col}>'", "merger.tags.row_end='|'",
        "merger.tags.before_thumbnail='<global>'"]  # fmt: skip


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def build(*overrides: str) -> VLM:
    torch.manual_seed(0)
    cfg = hdvl.compose("llm=tiny", "bridge=mlp", *ENCODER, "+encoder.config={depth: 2}", *overrides)
    vlm: VLM = hdvl.build(cfg.model)
    return vlm.eval()


def talk(*sizes: tuple[int, int]) -> list[Message]:
    images = tuple(photo(*size) for size in sizes)
    return [Message("user", "What is it?", images=images), Message("assistant", "A cat.")]


MIXED = ["tiler=dynamic_ratio", "tiler.tile_size=32", "tiler.max_tiles=4", "tiler.thumbnail_size=64",
         "tiler.thumbnail_fit=aspect", "tiler.thumbnail_multiple=16", *TAGS]  # fmt: skip
NATIVE = ["tiler=native", "tiler.tile_size=32", "tiler.max_patches=24", "merger=concat"]


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("overrides", [MIXED, NATIVE], ids=["mixed", "native"])
def test_views_of_several_sizes_train_and_pack(overrides: list[str]) -> None:
    """Single samples, padded batches and packed rows give the same loss and the same visual tokens."""
    vlm = build(*overrides)
    processor = Processor.of(vlm)
    samples = [processor(talk((100, 50))), processor(talk((40, 90), (64, 64))), processor(talk())]
    assert len({plan.sizes for sample in samples for plan in sample.plans}) > 1
    alone = [vlm(s.ids[None], s.pixels, s.plans, labels=s.labels[None]) for s in samples]
    for sample, output in zip(samples, alone, strict=True):
        lengths = [len(tokens) for tokens in output.visual_tokens]
        assert lengths == [vlm.merger.token_count(plan) for plan in sample.plans]
    packed = pack(samples)
    together = vlm(packed.input_ids, packed.pixels, packed.plans, segments=packed.segments)
    rows = torch.cat([output.logits[0] for output in alone])
    torch.testing.assert_close(together.logits[0], rows, atol=1e-5, rtol=1e-5)
    padded = collate(samples, pad_id=0)
    apart = vlm(padded.input_ids, padded.pixels, padded.plans, padded.attention_mask)
    for row, sample, output in zip(apart.logits, samples, alone, strict=True):
        torch.testing.assert_close(row[: len(sample.ids)], output.logits[0], atol=1e-5, rtol=1e-5)


def test_the_tags_are_in_the_prompt() -> None:
    vlm = build(*MIXED)
    sample = Processor.of(vlm)(talk((100, 50)))
    text = vlm.llm.tokenizer.decode(sample.ids[sample.ids != vlm.image_token_id])
    assert "<r1c1><r1c2>|<global>" in text


def test_views_are_encoded_each_in_its_size() -> None:
    """The tokens of an image with views of several sizes equal those of its views encoded separately."""
    vlm = build(*MIXED)
    tiles = vlm.tiler(photo(100, 50))
    assert isinstance(tiles.pixels, tuple)
    (together,) = vlm.encode_images(tiles.pixels, [tiles.plan])
    apart = [vlm.bridge(vlm.encoder(group), None) for group in tiles.pixels[:1]]
    grid = vlm.encoder.grid_for(tiles.plan.sizes[-1])
    apart.append(vlm.bridge(vlm.encoder(tiles.pixels[1]), grid))
    torch.testing.assert_close(together, torch.cat([part.flatten(0, 1) for part in apart]))


def test_a_step_of_text_alone_reaches_every_parameter() -> None:
    vlm = build(*MIXED).train()
    sample = Processor.of(vlm)(talk())
    loss = vlm(sample.ids[None], sample.pixels, sample.plans, labels=sample.labels[None]).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in vlm.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [MIXED, NATIVE], ids=["mixed", "native"])
def test_saved_and_loaded(overrides: list[str], tmp_path: Any) -> None:
    """A folder holds the layout, and answers are those of the model that was saved."""
    from hdvl.checkpoints import save_folder
    from hdvl.config import to_plain

    cfg = hdvl.compose("llm=tiny", "bridge=mlp", *ENCODER, "+encoder.config={depth: 2}", *overrides)
    torch.manual_seed(0)
    vlm = hdvl.build(cfg.model).eval()
    save_folder(vlm, tmp_path / "model", to_plain(cfg))
    pipe = hdvl.load(tmp_path / "model")
    sample = Processor.of(vlm)(talk((100, 50)))
    own = pipe.processor(talk((100, 50)))
    assert torch.equal(own.ids, sample.ids) and own.plans == sample.plans
    with torch.no_grad():
        want = vlm(sample.ids[None], sample.pixels, sample.plans).logits
        assert torch.equal(pipe.model(own.ids[None], own.pixels, own.plans).logits, want)


def test_a_view_that_the_encoder_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"views of \d+x\d+ pixels that the encoder does not take"):
        build("tiler=native", "tiler.tile_size=32", "tiler.multiple_of=20", "merger=concat")
