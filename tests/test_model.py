"""The model: composition of parts, image slots, and errors."""

from functools import partial

import pytest
import torch
from torch import nn

from hdvl.bridges import MLP, PixelShuffleMLP
from hdvl.decoding import end_ids
from hdvl.encoders.conv_stem import ConvStem
from hdvl.llms import CausalLM, build_tokenizer
from hdvl.mergers import Concat, OverlapBlend, Spatial
from hdvl.model import VLM
from hdvl.processor import Processor, collate
from hdvl.protocols import Message
from hdvl.templates import ChatML, Unit
from hdvl.tilers import SlidingWindow


def tiny_llm() -> CausalLM:
    config = {
        "model_type": "qwen2",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "tie_word_embeddings": True,
    }
    return CausalLM.from_config(config=config, tokenizer=build_tokenizer(vocab_size=300))


def tiny_vlm(**changes) -> VLM:
    parts = {
        "tiler": SlidingWindow(tile_size=64, stride=32, multiple_of=32),
        "encoder": ConvStem(tile_size=64, stem_width=8, width=16, stem_depth=1, depth=1),
        "bridge": partial(PixelShuffleMLP, factor=4),
        "merger": partial(OverlapBlend, positions="sincos2d"),
        "llm": tiny_llm(),
        "template": ChatML(system=""),
    }
    torch.manual_seed(0)
    return VLM(**{**parts, **changes}).eval()


def messages(image, question="What?", answer="This."):
    return [Message("user", question, (image,)), Message("assistant", answer)]


@pytest.fixture
def images():
    from PIL import Image

    return [
        Image.radial_gradient("L").resize(size).convert("RGB") for size in ((150, 100), (64, 64))
    ]


def test_logits_loss_and_visual_tokens(images):
    vlm = tiny_vlm()
    processor = Processor.of(vlm)
    samples = [processor(messages(image)) for image in images]
    batch = collate(samples, pad_id=0)
    output = vlm(batch.input_ids, batch.pixels, batch.plans, batch.attention_mask, batch.labels)
    assert output.logits.shape[:2] == batch.input_ids.shape
    counts = [vlm.merger.token_count(plan) for plan in batch.plans]
    assert [len(tokens) for tokens in output.visual_tokens] == counts
    assert counts[0] > counts[1]
    expected = nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(output.loss, expected)


def test_padding_on_the_right_needs_no_mask(images):
    vlm = tiny_vlm()
    processor = Processor.of(vlm)
    batch = collate([processor(messages(image)) for image in images], pad_id=0)
    with torch.no_grad():
        masked = vlm(batch.input_ids, batch.pixels, batch.plans, batch.attention_mask, batch.labels)
        plain = vlm(batch.input_ids, batch.pixels, batch.plans, None, batch.labels)
    torch.testing.assert_close(masked.loss, plain.loss)


def test_a_batch_equals_its_samples(images):
    vlm = tiny_vlm()
    processor = Processor.of(vlm)
    samples = [processor(messages(image)) for image in images]
    batch = collate(samples, pad_id=0)
    with torch.no_grad():
        together = vlm(batch.input_ids, batch.pixels, batch.plans, batch.attention_mask)
        for row, sample in enumerate(samples):
            alone = vlm(sample.ids[None], sample.pixels, sample.plans)
            length = len(sample.ids)
            torch.testing.assert_close(
                together.logits[row, :length], alone.logits[0], atol=1e-5, rtol=1e-4
            )


def test_encoding_in_chunks_gives_the_same(images):
    whole, chunked = tiny_vlm(), tiny_vlm(encode_chunk=2)
    chunked.load_state_dict(whole.state_dict())
    sample = Processor.of(whole)(messages(images[0]))
    with torch.no_grad():
        one, other = (vlm.encode_images(sample.pixels, sample.plans)[0] for vlm in (whole, chunked))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_text_without_images_needs_no_tiles():
    vlm = tiny_vlm()
    sample = Processor.of(vlm)([Message("user", "Hello"), Message("assistant", "Yes")])
    assert sample.pixels.shape == (0, 3, 64, 64)
    output = vlm(sample.ids[None], sample.pixels, sample.plans, labels=sample.labels[None])
    assert output.visual_tokens == [] and output.loss is not None


def test_gradients_reach_every_part(images):
    vlm = tiny_vlm()
    vlm.train()
    sample = Processor.of(vlm)(messages(images[0]))
    loss = vlm(sample.ids[None], sample.pixels, sample.plans, labels=sample.labels[None]).loss
    loss.backward()
    without = [name for name, p in vlm.named_parameters() if p.grad is None]
    assert without == []


def test_generation_equals_recomputing_every_step(images):
    vlm = tiny_vlm()
    sample = Processor.of(vlm)(messages(images[0])[:1], add_generation_prompt=True)
    new = vlm.generate(sample.ids[None], sample.pixels, sample.plans, max_new_tokens=8, stop_ids=[])
    ids = sample.ids[None]
    for step in range(8):
        with torch.no_grad():
            logits = vlm(ids, sample.pixels, sample.plans).logits[:, -1]
        assert int(logits.argmax()) == int(new[0, step])
        ids = torch.cat([ids, new[:, step : step + 1]], dim=1)


def test_other_tile_sizes_are_refused():
    with pytest.raises(
        ValueError, match=r"tiler.tile_size=96 must equal the encoder's tile_size=64"
    ):
        tiny_vlm(tiler=SlidingWindow(tile_size=96, stride=64, multiple_of=32))


@pytest.mark.parametrize("merger", [Spatial, OverlapBlend])
def test_transposed_tokens_are_refused_where_they_are_laid_out_as_an_image(merger):
    transposed = partial(PixelShuffleMLP, factor=4, order="v1")
    with pytest.raises(
        ValueError,
        match=r"bridge PixelShuffleMLP with order=v1 gives tokens .* not in raster order",
    ):
        tiny_vlm(bridge=transposed, merger=merger)
    assert tiny_vlm(bridge=transposed, merger=Concat).bridge.out_grid == (2, 2)


def test_encode_chunk_must_be_positive():
    with pytest.raises(ValueError, match="encode_chunk must be at least 1 or null, got 0"):
        tiny_vlm(encode_chunk=0)


def test_an_encoder_with_wrong_attributes_is_refused():
    encoder = ConvStem(tile_size=64, stem_width=8, width=16)
    encoder.grid = (8, 9)
    with pytest.raises(
        ValueError, match="ConvStem says grid=8x9 and width=16, but gives 64 tokens"
    ):
        tiny_vlm(encoder=encoder)


def test_slots_and_tokens_must_match(images):
    vlm = tiny_vlm()
    sample = Processor.of(vlm)(messages(images[0]))
    with pytest.raises(ValueError, match=r"input_ids hold .* image slots"):
        vlm(sample.ids[None, 8:], sample.pixels, sample.plans)
    with pytest.raises(ValueError, match=r"plans ask for .* tiles, pixels hold 1"):
        vlm(sample.ids[None], sample.pixels[:1], sample.plans)


def test_it_builds_on_meta():
    with torch.device("meta"):
        vlm = tiny_vlm(bridge=partial(MLP), merger=partial(Concat))
    assert all(parameter.is_meta for parameter in vlm.parameters())


@pytest.mark.parametrize("slot", [-1, 5000])
def test_a_given_slot_needs_no_row_and_no_tokenizer(slot: int) -> None:
    llm = tiny_llm()
    rows, llm.tokenizer = llm.rows, None
    vlm = tiny_vlm(llm=llm, image_token_id=slot)
    assert (vlm.image_token_id, vlm.llm.rows) == (slot, rows)
    visual = [torch.randn(3, 32)]
    placed = vlm.merge_image_tokens(torch.tensor([[7, slot, slot, slot, 9]]), visual)
    assert torch.equal(placed[0, 1:4], visual[0])
    assert torch.equal(placed[0, ::4], llm.embed(torch.tensor([[7, 9]]))[0])
    with pytest.raises(ValueError, match=r"needs a tokenizer, this model was loaded without one"):
        Processor.of(vlm)([Message("user", "What?")])


def test_a_given_slot_must_be_the_tokenizers() -> None:
    llm = tiny_llm()
    template = ChatML(system="", boxes=Unit())
    rows, last = llm.rows, len(llm.tokenizer)
    vlm = tiny_vlm(llm=llm, template=template, image_token_id=last)
    assert vlm.llm.rows == rows and vlm.image_token_id == last
    message = rf"image_token_id must be the tokenizer's id of '<\|image_pad\|>', {last}, got 7"
    with pytest.raises(ValueError, match=message):
        tiny_vlm(llm=tiny_llm(), template=template, image_token_id=7)
    with pytest.raises(
        ValueError, match=r"must be in the published vocabulary, </box>, .* are not"
    ):
        tiny_vlm(llm=tiny_llm(), template=ChatML(system=""), image_token_id=last)


def test_the_models_own_ends_come_before_the_tokenizers() -> None:
    llm = tiny_llm()
    assert end_ids(llm) == (llm.tokenizer.eos_token_id,)
    llm.stop_ids = (3, 4)
    assert end_ids(llm) == (3, 4)
