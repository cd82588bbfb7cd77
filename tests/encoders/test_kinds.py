"""Models of many kinds work as encoders, or one line says what they lack."""

from typing import Any

import pytest
import torch

from hdvl.encoders import TimmEncoder, TransformersEncoder


@pytest.mark.parametrize(
    ("name", "size", "grid", "patch"),
    [
        ("xcit_nano_12_p16_224", None, (14, 14), (16, 16)),
        ("cait_xxs24_224", None, (14, 14), None),
        ("convit_tiny", None, (14, 14), None),
        ("hiera_tiny_224", None, (7, 7), None),
        ("levit_128s", None, (4, 4), None),
        ("mvitv2_tiny", None, (7, 7), (32, 32)),
        ("volo_d1_224", None, (14, 14), None),
        ("naflexvit_base_patch16_gap", 256, (16, 16), (16, 16)),
        ("vitamin_small_224", None, (14, 14), (16, 16)),
        ("vit_tiny_r_s16_p8_224", None, (7, 7), (32, 32)),
        ("shvit_s1", None, (4, 4), (64, 64)),
        ("xception41", None, (10, 10), (32, 32)),
    ],
)
@pytest.mark.slow
def test_timm(name: str, size: int | None, grid: Any, patch: Any) -> None:
    with torch.device("meta"):
        encoder = TimmEncoder(name=name, tile_size=size)
    assert (encoder.grid, encoder.sizes.patch) == (grid, patch)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clip", r"configuration of clip has no .*; take its vision part, clip_vision_model"),
        ("convnext", r"configuration of convnext has no hidden_size; encoder=timm has more kinds"),
        (
            "swin",
            r"one token for each patch of a tile, swin gives 49 tokens .* and patches of 4 x 4 px",
        ),
        ("glm4v_vision", r"glm4v_vision needs hidden_states, grid_thw besides pixel_values"),
        ("vit_mae", r"vit_mae gives 50 tokens for tile_size=224"),
        (
            "timesformer",
            r"encoder timesformer must give features .* forward pass raised ValueError",
        ),
    ],
)
def test_transformers_says_what_is_lacking(name: str, said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said) as caught:
        TransformersEncoder(name=name, mean=[0.5] * 3, std=[0.5] * 3)
    assert "\n" not in str(caught.value)


def test_a_model_that_concatenates_the_tokens_of_all_images() -> None:
    with (
        torch.device("meta"),
        pytest.raises(
            ValueError, match="encoder pixtral must give features of each of several images"
        ),
    ):
        TransformersEncoder(name="pixtral", mean=[0.5] * 3, std=[0.5] * 3)


def test_a_model_without_separate_blocks() -> None:
    with (
        torch.device("meta"),
        pytest.raises(
            ValueError,
            match="crossvit_tiny_240 must give features of each of several images, and without",
        ),
    ):
        TimmEncoder(name="crossvit_tiny_240")


def test_keys_that_a_configuration_does_not_have() -> None:
    config = {"num_hidden_layer": 3}
    with pytest.raises(
        ValueError,
        match=r"config of clip_vision_model has no num_hidden_layer; did you mean num_hidden_layers\?",
    ):
        TransformersEncoder(name="clip_vision_model", config=config, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(ValueError, match=r"config of vit has no qqq; it has .*hidden_size"):
        TransformersEncoder(name="vit", config={"qqq": 3}, mean=[0.5] * 3, std=[0.5] * 3)
