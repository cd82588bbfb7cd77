"""Qwen-VL's trunk against its description as plain functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hdvl.encoders import QwenViT
from hdvl.encoders.qwen_vit import is_packed, published_key, repacked
from tests.qwen_vl_reference import VISUAL, manifest, trunk

TINY: dict[str, Any] = {"width": 24, "depth": 2, "heads": 3, "mlp_width": 40, "tile_size": 56}
VISION = {
    "heads": 3,
    "layers": 2,
    "mlp_ratio": 1.67,  # 24 * 1.67 is cut down to 40
    "output_dim": 128,
    "patch_size": 14,
    "width": 24,
}
CONFIG = {
    "hidden_size": 128,
    "vocab_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "visual": VISION,
}


def published(scale: float = 0.2) -> dict[str, Tensor]:
    """Random weights of trunk and bridge in the published spelling, without the prefix."""
    return {
        key.removeprefix(VISUAL): torch.randn(shape) * scale
        for key, shape in manifest(CONFIG).items()
        if key.startswith(VISUAL)
    }


def test_contract(assert_contract: Callable[..., None]) -> None:
    encoder = QwenViT(**TINY)
    with torch.no_grad():
        for block in encoder.model.blocks:
            block.attn.proj.weight.normal_()
    assert_contract(encoder, mixing="attn.proj", prefix=0)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("tile_size", [56, 42, 224, 238])
def test_features_are_those_of_the_description(
    tile_size: int, tmp_path: Path, noise: Callable[..., Tensor]
) -> None:
    state = published()
    save_file({VISUAL + key: value for key, value in state.items()}, tmp_path / "model.safetensors")
    encoder = QwenViT.from_pretrained(weights=tmp_path, **TINY | {"tile_size": tile_size}).eval()
    pixels = encoder.pixels(noise(2, tile_size), torch.float32)
    assert encoder.grid == (tile_size // 14, tile_size // 14)
    torch.testing.assert_close(encoder(pixels), trunk(state, pixels, VISION), atol=2e-5, rtol=0)


def test_uint8_pixels_are_normalised_inside(noise: Callable[..., Tensor]) -> None:
    encoder, tiles = QwenViT(**TINY).eval(), noise(1, 56)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (encoder.mean, encoder.std))
    torch.testing.assert_close(encoder(tiles), encoder((tiles / 255 - mean) / std))


def test_packed_heads_are_reordered() -> None:
    rows = torch.tensor(
        [100.0 * h + 10 * p + s for h in range(2) for p in range(3) for s in range(4)]
    )
    assert repacked(rows, 2)[:8].tolist() == [0, 1, 2, 3, 100, 101, 102, 103]
    weight = torch.randn(24, 5)
    assert torch.equal(repacked(weight, 2)[:, 3], repacked(weight[:, 3], 2))


@pytest.mark.slow
def test_positions_are_stretched_in_float32(noise: Callable[..., Tensor]) -> None:
    encoder = QwenViT(**TINY).eval().bfloat16()
    wide = QwenViT(**TINY).eval()
    wide.load_state_dict(encoder.state_dict())
    tiles, tolerance = noise(2, 56), 0.06
    ours, wanted = encoder(tiles), wide(tiles)
    assert ours.dtype == torch.bfloat16
    assert (ours - wanted).abs().max() < tolerance * wanted.std()


@pytest.mark.slow
def test_published_size() -> None:
    with torch.device("meta"):
        encoder = QwenViT()
    assert sum(value.numel() for value in encoder.parameters()) == 1_842_770_688
    assert (encoder.width, encoder.grid, encoder.tile_size) == (1664, (32, 32), 448)


def test_every_published_key_of_the_trunk_is_known() -> None:
    names = {published_key(own) for own in QwenViT(**TINY).model.state_dict()}
    beside = {key for key in published() if key.startswith(("attn_pool.", "ln_post.", "proj"))}
    assert names == set(published()) - beside
    with pytest.raises(ValueError, match=r"own must be a tensor of QwenViT.model, got 'head'"):
        published_key("head")
    assert {key for key in published() if is_packed(key)} == {
        f"transformer.resblocks.{i}.attn.in_proj.{kind}"
        for i in (0, 1)
        for kind in ("weight", "bias")
    }


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = published()
    state["head"] = state.pop("ln_pre.bias")
    state["conv1.weight"] = torch.ones(24, 3, 7, 7)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"missing: norm.bias; surplus: head; misshapen: patches.weight"
    ):
        QwenViT.from_pretrained(weights=tmp_path, **TINY)


@pytest.mark.slow
def test_drop_path_grows_with_depth() -> None:
    blocks = QwenViT(**TINY | {"depth": 3}, drop_path=0.2).model.blocks
    assert [getattr(block.drop_path1, "drop_prob", 0) for block in blocks] == [0, 0.1, 0.2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_path": 1.0}, "drop_path must be in 0..1"),
        ({"heads": 5}, "width a multiple of heads"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"tile_size": 60}, "tile_size must be a multiple of the patch size 14"),
        ({"image_size": 60}, "image_size must be a multiple of patch=14"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QwenViT(**TINY | options)
