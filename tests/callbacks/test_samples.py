"""A batch is split into the samples that it was made of, and their text into pieces."""

import torch
from PIL import Image

from hdvl.callbacks.samples import image_of, pieces_of, samples_of
from hdvl.model import VLM
from hdvl.processor import collate, pack
from tests.callbacks.runs import shared_sample, two_samples


def test_padded_and_packed_batches_are_split_into_samples(vlm: VLM) -> None:
    samples = two_samples(vlm)
    for batch in (collate(samples, pad_id=0), pack(samples)):
        found = samples_of(batch, vlm)
        assert [sample.row for sample in found] == [0, 1]
        for one, other in zip(found, samples, strict=True):
            assert one.plans == other.plans
            for name in ("ids", "labels", "pixels"):
                assert torch.equal(getattr(one, name), getattr(other, name))


def test_pieces_distinguish_supervised_text(vlm: VLM) -> None:
    sample = two_samples(vlm)[0]
    pieces = pieces_of(sample, vlm)
    said = [piece.text for piece in pieces if piece.kind == "said"]
    assert said == ["Née second.<|im_end|>", "Yes.<|im_end|>"]
    counts = [vlm.merger.token_count(plan) for plan in sample.plans]
    assert [piece.text for piece in pieces if piece.kind == "image"] == [
        f"[image 70x60: {counts[0]} tokens, {sample.plans[0].count} tiles]",
        f"[image 20x20: {counts[1]} tokens, {sample.plans[1].count} tiles]",
    ]
    read = "".join(piece.text for piece in pieces if piece.kind == "read")
    assert "First or" in read and "Sure?" in read


def test_conversations_that_share_an_image(vlm: VLM) -> None:
    sample = shared_sample(vlm)
    found = samples_of(collate([*two_samples(vlm), sample], pad_id=0), vlm)
    assert [one.suffix_lengths for one in found] == [(), (), sample.suffix_lengths] and len(
        found[2].plans
    ) == 1
    assert torch.equal(found[2].ids, sample.ids) and torch.equal(found[2].pixels, sample.pixels)
    pieces = pieces_of(found[2], vlm)
    assert [piece.text for piece in pieces if piece.kind == "said"] == [
        "Red.<|im_end|>",
        "All over.<|im_end|>",
    ]
    again = [piece.text for piece in pieces if piece.kind == "image"][1:]
    assert again == ["\n[conversation 2, which begins as the first]"]


def test_an_image_is_put_together_from_its_tiles(vlm: VLM) -> None:
    image = Image.new("RGB", (64, 64), (255, 0, 0))
    image.paste((0, 0, 255), (32, 0, 64, 64))
    tiles = vlm.tiler(image)
    whole, plan = image_of(tiles.pixels, tiles.plan)
    assert whole.tobytes() == image.tobytes() and plan == tiles.plan
    small, scaled = image_of(tiles.pixels, tiles.plan, longest=16)
    assert small.size == (16, 16) == (scaled.width, scaled.height)
    assert small.getpixel((2, 8)) == (255, 0, 0) and small.getpixel((13, 8)) == (0, 0, 255)
