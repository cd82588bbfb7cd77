"""An encoder whose equal blocks are run only once is the same as one whose blocks are all run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import hdvl.encoders.used_parameters as measuring
from hdvl.encoders import InternViT, TimmEncoder, TransformersEncoder
from hdvl.encoders.base import PatchEncoder
from hdvl.encoders.repeated_blocks import SkippedBlocks, skip_repeated_blocks
from hdvl.probe import probe_encoder

HALF = (0.5, 0.5, 0.5)
SMALL = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
ENCODERS: dict[str, Callable[[], PatchEncoder]] = {
    "intern_vit": lambda: InternViT(
        width=24, depth=4, heads=2, mlp_width=32, patch=7, image_size=28
    ),
    "clip": lambda: TransformersEncoder(
        name="clip_vision_model", mean=HALF, std=HALF, config=SMALL, select_layer=-2
    ),
    "siglip, normalised": lambda: TransformersEncoder(
        name="siglip_vision_model", mean=HALF, std=HALF, config=SMALL, final_norm=True
    ),
    "timm": lambda: TimmEncoder(
        name="vit_tiny_patch16_224",
        tile_size=32,
        select_layer=-2,
        config={"embed_dim": 24, "depth": 5, "num_heads": 2, "img_size": 32},
    ),
}


@contextmanager
def all_blocks(model: nn.Module) -> Iterator[SkippedBlocks]:
    yield {}


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("name", ENCODERS)
def test_running_one_of_equal_blocks_gives_the_same_encoder(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ENCODERS[name]()
    monkeypatch.setattr(measuring, "skip_repeated_blocks", all_blocks)
    complete = ENCODERS[name]()
    assert (quick.width, quick.grid) == (complete.width, complete.grid)
    assert list(dict(quick.named_parameters())) == list(dict(complete.named_parameters()))
    assert not any("forward" in vars(module) for module in quick.modules())
    pixels = torch.zeros(1, 3, quick.tile_size, quick.tile_size, dtype=torch.uint8)
    assert quick(pixels).shape == complete(pixels).shape


class Row(nn.Module):
    """Blocks one after the other, of which ``used`` count for the output."""

    def __init__(self, *widths: int, used: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.used = used

    def forward(self, pixels: Tensor) -> Tensor:
        values, kept = pixels.mean(dim=1), None
        for number, block in enumerate(self.blocks):
            values = block(values)
            kept = values if number + 1 == self.used else kept
        return values if kept is None else kept


def test_skipped_blocks_and_their_used_parameters() -> None:
    model = Row(2, 2, 2, 2, 2, used=2)
    with skip_repeated_blocks(model) as skipped:
        model(torch.zeros(1, 3, 2, 2))
    assert {name: first for name, (first, _) in skipped.items()} == dict.fromkeys(
        ["blocks.1", "blocks.2", "blocks.3"], "blocks.0"
    )
    _, used = measuring.features_and_parameters(model, (3, 2, 2))
    assert used == {f"blocks.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")}


def test_blocks_that_change_the_shape_are_run() -> None:
    model = Row(2, 4, 2, 4, 2)  # two pairs of equal blocks: 2 to 4, and 4 to 2
    with skip_repeated_blocks(model) as skipped:
        assert model(torch.zeros(1, 3, 2, 2)).shape == (1, 2, 2)
    assert skipped == {}
    features, used = measuring.features_and_parameters(model, (3, 2, 2))
    assert features.shape == (1, 2, 2) and len(used) == 8


def test_an_encoder_that_was_measured_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ENCODERS["intern_vit"]()
    monkeypatch.setattr(InternViT, "tokens", lambda self, pixels: pytest.fail("was run"))
    probe_encoder(encoder.to("meta"))
    monkeypatch.undo()
    encoder.width = 25
    with pytest.raises(ValueError, match="says grid=4x4 and width=25"):
        probe_encoder(encoder)
