"""Encoders support images of other sizes than tiles, with the results of the libraries."""

from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.model import resize_pos_embed
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.models.siglip2.image_processing_siglip2 import Siglip2ImageProcessor

from hdvl.encoders import (
    ConvStem,
    FusedEncoder,
    InternViT,
    OpenCLIPEncoder,
    QwenViT,
    TimmEncoder,
    TransformersEncoder,
    encode_in_chunks,
)
from hdvl.encoders.sizes import Sizes

TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
VITS = [
    "vit_small_patch16_224",
    "vit_base_patch14_reg4_dinov2",
    "deit3_small_patch16_224",
    "eva02_base_patch16_clip_224",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_rope_mixed_224",
]
TRANSFORMERS = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
GRID = (2, 8)
"""As many patches as the 4 x 4 of a tile: a table that only counts them would be wrong."""
SIZE = (64, 16)


def image(seed: int = 0, size: tuple[int, int] = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, size[1], size[0], generator=generator) * 2 - 1


def same_weights(encoder: Any, whole: nn.Module) -> None:
    state = whole.state_dict()
    encoder.model.load_state_dict({key: state[key] for key in encoder.model.state_dict()})


@pytest.mark.slow
@pytest.mark.parametrize("name", VITS)
def test_timm(name: str) -> None:
    encoder = TimmEncoder(name=name, config=TIMM, final_norm=True).eval()
    whole = timm.create_model(name, dynamic_img_size=True, **TIMM).eval()
    same_weights(encoder, whole)
    assert encoder.grid_for(SIZE) == GRID
    native = encoder(image(1, (32, 32)))
    for size in (SIZE, (24, 40), (32, 32)):
        _, every = whole.forward_intermediates(image(0, size), norm=True, output_fmt="NLC")
        torch.testing.assert_close(encoder(image(0, size)), every[-1], atol=1e-6, rtol=0)
    assert torch.equal(encoder(image(1, (32, 32))), native)
    with torch.inference_mode():
        encoder(image())
    encoder(image()).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("tile_size", [None, 48])
def test_timm_naflex(tile_size: int | None) -> None:
    config = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}
    name = "naflexvit_base_patch16_gap"
    encoder = TimmEncoder(name=name, config=config, tile_size=tile_size).eval()
    whole = timm.create_model(name, **config).eval()
    same_weights(encoder, whole)
    assert encoder.grid_for(SIZE) == GRID
    patches = image().reshape(2, 3, 2, 8, 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, -1)
    coordinates = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(8), indexing="ij"), -1)
    mask = torch.ones(2, 16, dtype=torch.bool)
    theirs = whole.forward_features(
        patches=patches, patch_valid=mask, patch_coord=coordinates.reshape(1, 16, 2).repeat(2, 1, 1)
    )
    patches = theirs["patches"][:, -16:]
    torch.testing.assert_close(encoder(image()), patches, atol=1e-5, rtol=0)


def test_timm_maps() -> None:
    encoder = TimmEncoder(name="resnet18", tile_size=64, select_layer=-2).eval()
    assert encoder.grid_for((96, 32)) == (2, 6)
    pixels = image(0, (96, 32))
    maps = encoder.model.forward_intermediates(pixels, intermediates_only=True)[-2]
    assert torch.equal(encoder(pixels), maps.flatten(2).transpose(1, 2))


def test_a_model_of_one_size_says_so() -> None:
    encoder = TimmEncoder(name="levit_128s", config={"img_size": 224}).eval()
    with pytest.raises(
        ValueError,
        match=r"images must be tile_size=224 pixels square, the only size that levit_128s",
    ):
        encoder.grid_for((448, 224))


def test_open_clip() -> None:
    vision = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32}
    encoder = OpenCLIPEncoder(name="ViT-B-16", config=vision, final_norm=True).eval()
    text = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    whole = open_clip.CLIP(512, vision | {"image_size": (24, 64)}, text).eval()
    state = {f"visual.{key}": value for key, value in encoder.model.state_dict().items()}
    resize_pos_embed(state, whole)
    whole.load_state_dict(whole.state_dict() | state)
    found = whole.visual.forward_intermediates(
        image(0, (64, 24)), output_fmt="NLC", normalize_intermediates=True
    )
    theirs = found["image_intermediates"][-1]
    torch.testing.assert_close(encoder(image(0, (64, 24))), theirs, atol=1e-6, rtol=0)
    assert encoder.grid_for(SIZE) == GRID and encoder(image()).shape == (2, 16, 48)
    encoder(image()).sum().backward()
    assert encoder.model.positional_embedding.grad is not None


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    "name",
    ["clip_vision_model", "siglip_vision_model", "dinov2_with_registers", "dinov3_vit", "vit"],
)
def test_transformers(name: str) -> None:
    config = TRANSFORMERS | {}
    if name == "dinov2_with_registers":  # has mlp_ratio instead
        del config["intermediate_size"]
    encoder = TransformersEncoder(name=name, config=config, **HALF).eval()
    whole = AutoModel.from_config(AutoConfig.for_model(name, **config)).eval()
    same_weights(encoder, whole)
    assert encoder.grid_for(SIZE) == GRID
    options = (
        {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in encoder.accepts else {}
    )
    blocks = next(m for m in whole.modules() if isinstance(m, nn.ModuleList) and len(m) == 2)
    seen: list[Any] = []
    blocks[-1].register_forward_hook(lambda *args: seen.append(args[2]))
    whole(pixel_values=image(), **options)
    theirs = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    torch.testing.assert_close(encoder(image()), theirs[:, -16:], atol=1e-6, rtol=0)


def test_siglip2_naflex_in_a_padded_batch() -> None:
    """The library pads images of different sizes; hdvl encodes the images of each size together."""
    config = {key: value for key, value in TRANSFORMERS.items() if key != "image_size"}
    config |= {"num_patches": 16}
    encoder = TransformersEncoder(
        name="siglip2_vision_model", config=config, final_norm=True, **HALF
    ).eval()
    whole = AutoModel.from_config(AutoConfig.for_model("siglip2_vision_model", **config)).eval()
    same_weights(encoder, whole)
    images = [image(0, SIZE)[0], image(0, (24, 40))[0]]
    processor = Siglip2ImageProcessor(
        do_resize=False, do_rescale=False, do_normalize=False, patch_size=8, max_num_patches=16
    )
    batch = processor(images=images, return_tensors="pt")
    theirs = whole(**batch).last_hidden_state
    grids = [encoder.grid_for(SIZE), encoder.grid_for((24, 40))]
    assert batch["spatial_shapes"].tolist() == [list(grid) for grid in grids] == [[2, 8], [5, 3]]
    for number, (rows, cols) in enumerate(grids):
        torch.testing.assert_close(
            encoder(images[number][None])[0], theirs[number, : rows * cols], atol=1e-5, rtol=0
        )


def test_intern_vit_is_transformers_own() -> None:
    encoder = InternViT(width=48, depth=2, heads=3, mlp_width=96, patch=8, image_size=32).eval()
    whole = AutoModel.from_config(encoder.model.config).eval()
    whole.load_state_dict(encoder.model.state_dict())
    theirs = whole(pixel_values=image()).last_hidden_state[:, 1:]
    assert encoder.grid_for(SIZE) == GRID
    torch.testing.assert_close(encoder(image()), theirs, atol=1e-6, rtol=0)


def test_every_patch_keeps_its_place() -> None:
    """Without attention a feature depends only on its own patch, so that a wrong order would be visible."""
    encoder = QwenViT(
        width=48, depth=1, heads=3, mlp_width=96, patch=8, image_size=32, tile_size=32
    ).eval()
    nn.init.zeros_(encoder.model.blocks[0].attn.proj.weight)
    pixels = image()[:1]
    before = encoder(pixels)
    for cell in range(16):
        changed = pixels.clone()
        y, x = 8 * (cell // 8), 8 * (cell % 8)
        changed[:, :, y : y + 8, x : x + 8] += 1
        on_meta = (encoder(changed) - before).abs().amax(dim=2)[0] > 1e-4
        assert on_meta.tolist() == [number == cell for number in range(16)]


def test_fused_encoders_support_the_sizes_that_all_support() -> None:
    stem = ConvStem(tile_size=32, stem_width=8, width=16)
    vit = TimmEncoder(name="vit_small_patch16_224", config=TIMM)
    fused = FusedEncoder(encoders={"stem": stem, "vit": vit}).eval()
    assert fused.grid_for(SIZE) == GRID
    features = fused(image())
    assert torch.equal(features[..., :16], stem(image())) and features.shape == (2, 16, 64)
    coarse = TimmEncoder(name="vit_small_patch16_224", config=TIMM | {"patch_size": 16})
    mixed = FusedEncoder(encoders={"stem": stem, "vit": coarse}, interpolate="nearest").eval()
    pixels = torch.randint(0, 256, (2, 3, 16, 64), dtype=torch.uint8)
    wide = mixed(pixels)[..., 16:].reshape(2, *GRID, 48)
    assert torch.equal(wide[:, ::2, ::2].flatten(1, 2), coarse.eval()(pixels))
    with pytest.raises(ValueError, match="images must be multiples of 16 x 16 pixels"):
        mixed.grid_for((40, 16))


@torch.inference_mode()
def test_chunks_of_any_size() -> None:
    encoder = ConvStem(tile_size=32, stem_width=8, width=16).eval()
    tiles = image(0, (128, 24)).repeat(5, 1, 1, 1)
    assert torch.equal(encode_in_chunks(encoder, tiles, None), encoder(tiles))
    # A kernel that is chosen by the number of tiles may round otherwise.
    torch.testing.assert_close(encode_in_chunks(encoder, tiles, 3), encoder(tiles))


def test_refusals() -> None:
    sizes = Sizes(name="ViT", tile_size=32, grid=(4, 4), patch=(8, 16))
    assert sizes.grid_for((32, 8)) == (1, 2)
    with pytest.raises(
        ValueError,
        match=r"images must be multiples of 16 x 8 pixels \(width x height\) for ViT, got 40 x 8; choose",
    ):
        sizes.grid_for((40, 8))
    with pytest.raises(ValueError, match="got 0 x 8"):
        sizes.grid_for((0, 8))


def test_an_equal_model_takes_what_was_found_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**options: Any) -> TransformersEncoder:
        config = {**TRANSFORMERS, "attention_dropout": 0.125}  # no other test builds this one
        return TransformersEncoder(name="siglip_vision_model", config=config, **HALF, **options)

    first, normed = build(), build(final_norm=True)
    run = "hdvl.encoders.base.features_and_parameters"
    monkeypatch.setattr(run, lambda *_: pytest.fail("the model was run again"))
    for known, options in ((first, {}), (normed, {"final_norm": True})):
        found = build(**options)
        assert list(found.state_dict()) == list(known.state_dict())
        assert (found.sizes, found.measured, found.grid, found.width) == (
            *(known.sizes, known.measured, known.grid, known.width),
        )
    assert len(normed.state_dict()) > len(first.state_dict())
    with pytest.raises(pytest.fail.Exception, match="run again"):
        build(select_layer=-2)
