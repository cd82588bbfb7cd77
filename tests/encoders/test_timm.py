from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from hdvl.config import CONF_DIR, build
from hdvl.encoders import TimmEncoder

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
PREFIX = {
    "vit_base_patch16_clip_224.openai": 1,
    "vit_base_patch16_siglip_224.v2_webli": 0,
    "vit_base_patch14_reg4_dinov2.lvd142m": 5,
    "eva02_base_patch16_clip_224.merged2b": 1,
}


def tiny(name: str = "vit_small_patch16_224", **options: Any) -> TimmEncoder:
    return TimmEncoder(name=name, config=TINY, **options).eval()


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("name", PREFIX)
def test_contract(name: str, assert_contract: Callable[..., None]) -> None:
    assert_contract(tiny(name, final_norm=True), mixing="attn.proj", prefix=PREFIX[name])


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("name", PREFIX)
@pytest.mark.parametrize(("layer", "norm"), [(-1, True), (-2, False)])
def test_features_equal_the_librarys_intermediates(
    name: str, layer: int, norm: bool, noise: Callable[..., torch.Tensor]
) -> None:
    whole = timm.create_model(name, **TINY).eval()
    encoder = tiny(name, select_layer=layer, final_norm=norm)
    state = whole.state_dict()
    encoder.model.load_state_dict({key: state[key] for key in encoder.model.state_dict()})
    assert len(encoder.model.blocks) == 4 + layer  # later blocks are not kept
    pixels = encoder.pixels(noise(2, 32), torch.float32)
    _, every = whole.forward_intermediates(pixels, norm=norm, output_fmt="NLC")
    assert torch.equal(encoder(pixels), every[layer])


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", PREFIX)
def test_normalisation_is_the_librarys(name: str, noise: Callable[..., torch.Tensor]) -> None:
    encoder = tiny(name)
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**data | {"input_size": (3, 32, 32), "crop_pct": 1.0})
    tile = noise(1, 32)
    theirs = transform(Image.fromarray(tile[0].permute(1, 2, 0).numpy().astype(np.uint8)))
    assert torch.allclose(encoder.pixels(tile, torch.float32)[0], theirs, atol=1e-6)


def test_tile_size_resizes_positions_as_timm_does(noise: Callable[..., torch.Tensor]) -> None:
    encoder = tiny(tile_size=48, final_norm=True)
    assert (encoder.grid, encoder.tile_size) == ((6, 6), 48)
    assert encoder(noise(1, 48)).shape == (1, 36, 48)
    assert encoder.model.pos_embed.shape == (1, 37, 48)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(("layer", "grid", "width"), [(-1, (2, 2), 512), (-3, (8, 8), 128)])
def test_convolutional_maps(
    layer: int, grid: tuple[int, int], width: int, noise: Callable[..., torch.Tensor]
) -> None:
    encoder = TimmEncoder(name="resnet18", tile_size=64, select_layer=layer).eval()
    assert (encoder.grid, encoder.width) == (grid, width)
    pixels = encoder.pixels(noise(1, 64), torch.float32)
    maps = encoder.model.forward_intermediates(pixels, intermediates_only=True)[layer]
    features, prefix = encoder.forward_with_prefix(pixels)
    assert torch.equal(features, maps.flatten(2).transpose(1, 2))
    assert prefix.shape[1] == 0


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("layout", ["timm", "open_clip"])
def test_from_pretrained(
    suffix: str, layout: str, tmp_path: Path, noise: Callable[..., torch.Tensor]
) -> None:
    whole = timm.create_model("vit_small_patch16_224", **TINY).eval()
    prefix = "visual.trunk." if layout == "open_clip" else ""
    state = {prefix + key: value for key, value in whole.state_dict().items()}
    file = tmp_path / ("model.safetensors" if suffix == "safetensors" else "pytorch_model.bin")
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    encoder = TimmEncoder.from_pretrained(
        name="vit_small_patch16_224", weights=tmp_path, config=TINY, tile_size=48, select_layer=-2
    ).eval()
    whole.set_input_size((48, 48))
    pixels = encoder.pixels(noise(1, 48), torch.float32)
    assert encoder.grid == (6, 6)
    assert torch.equal(encoder(pixels), whole.forward_intermediates(
        pixels, indices=[1], intermediates_only=True, output_fmt="NLC")[0])  # fmt: skip


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = timm.create_model("vit_small_patch16_224", **TINY).state_dict()
    del state["blocks.0.attn.qkv.bias"]
    state |= {"blocks.7.extra": torch.zeros(1), "norm.bias": torch.zeros(3)}
    save_file(state, tmp_path / "some.safetensors")
    with pytest.raises(
        ValueError, match=r"missing: blocks\.0\.attn\.qkv\.bias; surplus: blocks\.7"
    ) as e:
        TimmEncoder.from_pretrained(
            name="vit_small_patch16_224", weights=tmp_path, config=TINY, final_norm=True
        )
    assert "misshapen: norm.bias (3,) for (48,)" in str(e.value)


def test_without_weights_it_is_random() -> None:
    encoder = TimmEncoder.from_pretrained(name="vit_small_patch16_224", config=TINY)
    assert encoder.grid == (4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vit_smal_patch16_224"}, "name must be a model of timm, got .*close: vit_small_"),
        ({"name": "hf-hub:timm/some"}, "name must be a model of timm, got 'hf-hub"),
        ({"select_layer": -4}, r"select_layer must be in -3\.\.-1 .* got -4"),
        ({"select_layer": 0}, r"select_layer must be in -3\.\.-1 .* got 0"),
        ({"tile_size": 50}, "tile_size must be a multiple of the patch size 8, got 50; .* own is 32"),
        ({"mean": [0.5], "std": [0.5] * 3}, r"mean and std must be equally long .* got mean=\[0.5\]"),
    ],
)  # fmt: skip
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_a_norm_that_is_not_there() -> None:
    with pytest.raises(
        ValueError, match=r"final_norm=True needs a model that .* resnet18 does not"
    ):
        TimmEncoder(name="resnet18", tile_size=64, final_norm=True)


def test_tiles_of_another_size(noise: Callable[..., torch.Tensor]) -> None:
    assert tiny()(noise(1, 40)).shape == (1, 25, 48)
    with pytest.raises(ValueError, match="images must be multiples of 8 x 8 pixels"):
        tiny()(noise(1, 44))


@pytest.mark.slow
def test_every_layer_with_and_without_norm(noise: Callable[..., torch.Tensor]) -> None:
    whole = timm.create_model("vit_small_patch16_224", **TINY).eval()
    for norm in (True, False):
        for layer in (-3, -2, -1):
            encoder = tiny(select_layer=layer, final_norm=norm)
            own = encoder.model.state_dict()
            encoder.model.load_state_dict({key: whole.state_dict()[key] for key in own})
            pixels = encoder.pixels(noise(1, 32), torch.float32)
            _, every = whole.forward_intermediates(pixels, norm=norm, output_fmt="NLC")
            assert torch.equal(encoder(pixels), every[layer])


def test_no_tiles(noise: Callable[..., torch.Tensor]) -> None:
    assert tiny()(noise(0, 32)).shape == (0, 16, 48)


def test_the_default_encoder_is_tiny_and_takes_the_default_tiles(
    noise: Callable[..., torch.Tensor],
) -> None:
    encoder = build(OmegaConf.load(CONF_DIR / "encoder/tiny.yaml"))
    assert (encoder.tile_size, encoder.grid, encoder.width) == (224, (7, 7), 48)
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 300_000


def test_builds_on_meta() -> None:
    with torch.device("meta"):
        encoder = TimmEncoder(name="vit_large_patch14_reg4_dinov2", tile_size=448)
    assert (encoder.grid, encoder.width) == ((32, 32), 1024)
    assert all(parameter.is_meta for parameter in encoder.parameters())
