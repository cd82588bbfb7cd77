from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from hdvl.encoders import OpenCLIPEncoder

TINY = {"layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32}
# name: vision_cfg, prefix tokens, the attention's output, a published tag
CASES: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "ViT-B-16": (TINY, 1, "out_proj", "laion2b_s34b_b88k"),
    "ViT-B-16-SigLIP2": ({}, 0, "attn.proj", "webli"),
    "EVA02-B-16": ({}, 1, "attn.proj", "merged2b_s8b_b131k"),
}


@pytest.fixture(autouse=True)
def small_trunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's trunks inside open_clip, tiny: open_clip has no option for their size."""
    create = timm.create_model

    def tiny(name: str, **options: Any) -> nn.Module:
        small = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
        return create(name, **options | small)

    monkeypatch.setattr(timm, "create_model", tiny)


def make(name: str, **options: Any) -> OpenCLIPEncoder:
    options = {"tile_size": 32, "config": CASES[name][0]} | options
    return OpenCLIPEncoder(name=name, **options).eval()


def whole_model(name: str) -> nn.Module:
    """open_clip's whole model, with a text tower."""
    config = deepcopy(open_clip.get_model_config(name))
    text = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    vision = config["vision_cfg"] | CASES[name][0]
    return open_clip.CLIP(config["embed_dim"], vision, text).eval()


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", CASES)
def test_contract(name: str, assert_contract: Callable[..., None]) -> None:
    _, prefix, mixing, _ = CASES[name]
    assert_contract(make(name, final_norm=True), mixing=mixing, prefix=prefix)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("layer", "norm"), [(-1, True), (-2, False)])
def test_features_equal_the_librarys_intermediates(
    name: str, layer: int, norm: bool, tmp_path: Path, noise: Callable[..., Tensor]
) -> None:
    whole = whole_model(name)
    save_file(whole.state_dict(), tmp_path / "open_clip_model.safetensors")
    encoder = OpenCLIPEncoder.from_pretrained(
        name=name,
        weights=tmp_path,
        config=CASES[name][0],
        tile_size=32,
        select_layer=layer,
        final_norm=norm,
    ).eval()
    pixels = encoder.pixels(noise(2, 32), torch.float32)
    every = whole.visual.forward_intermediates(
        pixels, normalize_intermediates=norm, output_fmt="NLC", intermediates_only=True
    )["image_intermediates"]
    assert len(every) == 3
    assert torch.equal(encoder(pixels), every[layer])


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", CASES)
def test_normalisation_is_the_librarys(name: str, noise: Callable[..., Tensor]) -> None:
    encoder, told = make(name), open_clip.get_pretrained_cfg(name, CASES[name][3])
    transform = open_clip.image_transform(32, is_train=False, mean=told["mean"], std=told["std"])
    tile = noise(1, 32)
    theirs = transform(Image.fromarray(tile[0].permute(1, 2, 0).numpy().astype(np.uint8)))
    assert torch.allclose(encoder.pixels(tile, torch.float32)[0], theirs, atol=1e-6)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-16-SigLIP2"])
def test_tile_size_resizes_positions_after_loading(
    name: str, tmp_path: Path, noise: Callable[..., Tensor]
) -> None:
    whole = whole_model(name)
    torch.save({"epoch": 1, "state_dict": {
        f"module.{key}": value for key, value in whole.state_dict().items()
    }}, tmp_path / "epoch_1.pt")  # fmt: skip
    encoder = OpenCLIPEncoder.from_pretrained(
        name=name, weights=tmp_path / "epoch_1.pt", config=CASES[name][0], tile_size=48
    ).eval()
    assert (encoder.grid, encoder.tile_size) == ((6, 6), 48)
    assert encoder(noise(1, 48)).shape == (1, 36, 48)


def test_positions_are_resized_as_open_clip_does() -> None:
    whole = whole_model("ViT-B-16")
    encoder = make("ViT-B-16", tile_size=32)
    encoder.model.positional_embedding.data.copy_(whole.visual.positional_embedding)
    encoder._resize(48)
    config = open_clip.get_model_config("ViT-B-16")
    larger = open_clip.CLIP(
        config["embed_dim"],
        config["vision_cfg"] | TINY | {"image_size": 48},
        {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    )
    state = whole.state_dict()
    open_clip.model.resize_pos_embed(state, larger)
    assert torch.equal(encoder.model.positional_embedding, state["visual.positional_embedding"])


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = whole_model("ViT-B-16").state_dict()
    del state["visual.conv1.weight"]
    save_file(state | {"visual.more": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"does not: missing: conv1\.weight; surplus: more; encoder.rename"
    ):
        OpenCLIPEncoder.from_pretrained(
            name="ViT-B-16", weights=tmp_path, config=TINY, tile_size=32
        )


def test_without_weights_it_is_random() -> None:
    assert OpenCLIPEncoder.from_pretrained(name="ViT-B-16", config=TINY).grid == (4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "ViT-B16"}, "name must be a model of open_clip, got 'ViT-B16'; close: ViT-B-16"),
        ({"name": "RN50"}, "name must be a vision transformer, got 'RN50'; take conv"),
        ({"name": "ViT-L-14"}, "mean and std must be given for ViT-L-14, its weights disagree"),
        ({"name": "coca_ViT-B-32", "final_norm": True}, "final_norm=True is for pooled queries"),
        ({"name": "ViT-B-16", "select_layer": -4}, r"select_layer must be in -3\.\.-1"),
        ({"name": "ViT-B-16", "tile_size": 50}, "multiple of the patch size 8, got 50"),
        ({"name": "EVA02-B-16", "tile_size": 50}, "multiple of the patch size 8, got 50"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        OpenCLIPEncoder(**{"config": {} if options["name"] == "RN50" else TINY} | options)


def test_given_mean_and_std_are_used() -> None:
    encoder = make("ViT-B-16", mean=[0.5] * 3, std=[0.5] * 3)
    assert (encoder.mean, encoder.std) == ((0.5,) * 3, (0.5,) * 3)
