"""InternViT against its description as plain functions, and against transformers' own class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

from hdvl.encoders import InternViT
from hdvl.encoders.intern_vit import published_key
from tests.internvl_reference import intern_vit

TINY: dict[str, Any] = {
    "width": 32,
    "depth": 3,
    "heads": 2,
    "mlp_width": 48,
    "image_size": 56,
}


def described(**changes: Any) -> dict[str, Any]:
    """The same numbers in the spelling of the published configuration."""
    return {
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "layer_norm_eps": 1e-6,
        "norm_type": "rms_norm",
        "qk_normalization": True,
        "qkv_bias": False,
    } | changes


def published(config: dict[str, Any]) -> dict[str, Tensor]:
    """Random weights in the published spelling."""
    state = {
        "embeddings.class_embedding": torch.randn(1, 1, 32),
        "embeddings.position_embedding": torch.randn(1, 17, 32),
        "embeddings.patch_embedding.weight": torch.randn(32, 3, 14, 14) / 24,
        "embeddings.patch_embedding.bias": torch.randn(32) / 10,
    }
    for number in range(config["num_hidden_layers"]):
        at = f"encoder.layers.{number}"
        sizes = {
            "attn.qkv": (96, 32),
            "attn.proj": (32, 32),
            "mlp.fc1": (48, 32),
            "mlp.fc2": (32, 48),
        }
        for name, (rows, cols) in sizes.items():
            state[f"{at}.{name}.weight"] = torch.randn(rows, cols) * cols**-0.5
            if name != "attn.qkv" or config["qkv_bias"]:
                state[f"{at}.{name}.bias"] = torch.randn(rows) / 10
        norms = ["norm1", "norm2"]
        norms += ["attn.q_norm", "attn.k_norm"] if config["qk_normalization"] else []
        for name in norms:
            state[f"{at}.{name}.weight"] = 1 + torch.randn(32) / 10
            if name.startswith("norm") and config["norm_type"] == "layer_norm":
                state[f"{at}.{name}.bias"] = torch.randn(32) / 10
        for name in ("ls1", "ls2"):
            state[f"{at}.{name}"] = torch.randn(32)
    return state


def test_contract(assert_contract: Callable[..., None]) -> None:
    assert_contract(InternViT(**TINY, layer_scale=1.0), mixing="projection_layer", prefix=1)


@pytest.mark.slow
@pytest.mark.parametrize("tile_size", [56, 42, 70])
@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {}),
        ({"select_layer": -2}, {}),
        (
            {"norm": "layer_norm", "qk_norm": False, "qkv_bias": True},
            {"norm_type": "layer_norm", "qk_normalization": False, "qkv_bias": True},
        ),
        ({"norm_eps": 1e-3}, {"layer_norm_eps": 1e-3}),
    ],
    ids=["6b", "earlier layer", "300m", "eps"],
)
def test_features_are_those_of_the_description(
    tile_size: int,
    options: dict[str, Any],
    changes: dict[str, Any],
    tmp_path: Path,
    noise: Callable[..., Tensor],
) -> None:
    config = described(**changes)
    state = published(config)
    save_file(state, tmp_path / "model.safetensors")
    encoder = InternViT.from_pretrained(
        weights=tmp_path, **TINY, **options, tile_size=tile_size
    ).eval()
    pixels = encoder.pixels(noise(2, tile_size), torch.float32)
    wanted = intern_vit(state, pixels, config, 4 + encoder.select_layer)
    assert encoder.grid == (tile_size // 14, tile_size // 14)
    torch.testing.assert_close(encoder(pixels), wanted, atol=2e-5, rtol=0)


def test_numbers_are_those_of_transformers_own_class(noise: Callable[..., Tensor]) -> None:
    encoder, larger = InternViT(**TINY).eval(), InternViT(**TINY, tile_size=70).eval()
    theirs = AutoModel.from_config(
        AutoConfig.for_model(
            "internvl_vision",
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=48,
            image_size=56,
            norm_type="rms_norm",
            use_qk_norm=True,
        )
    ).eval()
    with torch.no_grad():
        encoder.model.embeddings.position_embeddings.normal_()
    larger.load_state_dict(encoder.state_dict())
    theirs.load_state_dict(encoder.model.state_dict())
    for ours in (encoder, larger):
        pixels = ours.pixels(noise(2, ours.tile_size), torch.float32)
        wanted = theirs(pixel_values=pixels).last_hidden_state[:, 1:]
        assert torch.equal(ours(pixels), wanted), ours.tile_size


@pytest.mark.slow
def test_positions_are_interpolated_in_float32(noise: Callable[..., Tensor]) -> None:
    encoder = InternViT(**TINY, tile_size=70).eval()
    with torch.no_grad():
        encoder.model.embeddings.position_embeddings.normal_()
    encoder = encoder.bfloat16()
    wide = InternViT(**TINY, tile_size=70)
    wide.load_state_dict(encoder.state_dict())
    ours = encoder.model.embeddings.positions(5, 5)
    assert torch.equal(ours, wide.model.embeddings.positions(5, 5).bfloat16())
    assert encoder(noise(1, 70)).dtype == torch.bfloat16


@pytest.mark.slow
def test_published_size() -> None:
    with torch.device("meta"):
        encoder = InternViT()
    assert sum(value.numel() for value in encoder.parameters()) == 5_536_496_000
    assert (encoder.width, encoder.grid, encoder.tile_size) == (3200, (32, 32), 448)


def test_drop_path_grows_with_depth_and_is_off_in_evaluation(noise: Callable[..., Tensor]) -> None:
    torch.manual_seed(1)
    encoder = InternViT(**TINY, drop_path=0.4, layer_scale=1.0)
    blocks = encoder.model.encoder.layer
    rates = [
        (
            getattr(b.attention.projection_dropout, "drop_prob", 0),
            getattr(b.dropout, "drop_prob", 0),
        )
        for b in blocks
    ]
    assert rates == [(0, 0), (0.2, 0.2), (0.4, 0.4)]
    plain = InternViT(**TINY, layer_scale=1.0)
    plain.load_state_dict(encoder.state_dict())
    tiles = noise(1, 56)
    assert torch.equal(encoder.eval()(tiles), plain.eval()(tiles))
    encoder.train()
    drawn = torch.stack([encoder(tiles) for _ in range(4)])
    assert drawn.std(0).max() > 0


def test_drop_path_drops_a_whole_branch_of_a_sample(noise: Callable[..., Tensor]) -> None:
    encoder = InternViT(**TINY | {"depth": 2}, drop_path=0.5, layer_scale=1.0).train()
    block = encoder.model.encoder.layer[1]
    x = torch.randn(64, 5, 32)
    added = block.layernorm_after.register_forward_pre_hook  # after the attention branch
    seen: list[Tensor] = []
    added(lambda _, args: seen.append(args[0] - x))
    block(x)
    kept = seen[0].abs().amax(dim=(1, 2)) > 0
    assert 16 < kept.sum() < 48
    block.eval()
    block(x)
    torch.testing.assert_close(seen[0][kept], 2 * seen[1][kept])


def test_no_norm_after_the_last_block() -> None:
    assert not [key for key in InternViT(**TINY).state_dict() if key.startswith("model.layernorm")]


def test_every_key_has_a_published_name() -> None:
    keys = [published_key(own) for own in InternViT(**TINY, qkv_bias=True).model.state_dict()]
    assert {key for key, _ in keys} == set(published(described(qkv_bias=True)))
    assert len(set(keys)) == len(keys)
    with pytest.raises(ValueError, match="must be a tensor of InternViT"):
        published_key("layernorm.weight")


def test_only_unused_blocks_may_be_stored_additionally(tmp_path: Path) -> None:
    state = published(described())
    save_file(
        {f"vision_model.{key}": value for key, value in state.items()}
        | {"mlp1.0.bias": torch.ones(2)},
        tmp_path / "model.safetensors",
    )
    InternViT.from_pretrained(weights=tmp_path, **TINY, select_layer=-3)
    del state["encoder.layers.0.ls1"]
    state |= {"encoder.layers.3.ls1": torch.ones(32), "head": torch.ones(32)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"missing: encoder.layer.0.lambda_1; surplus: encoder.layers.3"
    ) as error:
        InternViT.from_pretrained(weights=tmp_path, **TINY, select_layer=-3)
    assert "head" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_path": 1.0}, "drop_path must be in 0..1"),
        ({"norm": "batch_norm"}, "norm must be rms_norm or layer_norm"),
        ({"select_layer": -4}, "select_layer must be in -3..-1"),
        ({"tile_size": 60}, "tile_size must be a multiple of the patch size 14"),
        ({"image_size": 60}, "image_size must be a multiple of patch=14"),
    ],
)
def test_wrong_options(
    options: dict[str, Any], message: str, unchecked: Callable[..., Any]
) -> None:
    with unchecked(), pytest.raises(ValueError, match=message):
        InternViT(**TINY | options)
