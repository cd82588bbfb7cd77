"""An encoder whose features are not in raster order is refused when a model is built."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hdvl.bridges import MLP
from hdvl.config import build
from hdvl.encoders import ConvStem, FusedEncoder, TimmEncoder, TransformersEncoder
from hdvl.probe import check_members, check_places, probe_encoder
from hdvl.protocols import Bridge, Encoder, Merger
from tests.tiny_model import NODE, tiny_vlm

SMALL = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
HALF: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("vit_mae", {"mask_ratio": 0.0}),
        ("yolos", {"image_size": [32, 32], "num_detection_tokens": 3}),
    ],
)
def test_tokens_that_are_shuffled_or_shifted(name: str, config: dict[str, Any]) -> None:
    encoder = TransformersEncoder(name=name, config=SMALL | config, **HALF)
    with pytest.raises(
        ValueError, match=f"encoder {name} must give the features of patches in raster order, but"
    ):
        probe_encoder(encoder)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    "name", ["clip_vision_model", "dinov2_with_registers", "dinov3_vit", "vit"]
)
def test_tokens_in_raster_order(name: str) -> None:
    small = {key: SMALL[key] for key in SMALL if key != "intermediate_size" or "dinov2" not in name}
    encoder = TransformersEncoder(name=name, config=small, **HALF)
    state, mode = torch.get_rng_state(), encoder.training
    probe_encoder(encoder)
    assert torch.equal(torch.get_rng_state(), state) and encoder.training == mode


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "xcit_nano_12_p16_224"])
def test_tokens_of_timm_in_raster_order(name: str) -> None:
    check_places(TimmEncoder(name=name))


class Transposed(ConvStem):
    """Columns before rows."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels.transpose(2, 3))


def test_custom_encoders_and_parts_of_a_fused_one() -> None:
    own = Transposed(tile_size=64, stem_width=8, width=16)
    with pytest.raises(
        ValueError,
        match=r"encoder ConvStem .* changes of patches .* of 2 x 3",
    ):
        probe_encoder(own)
    right = ConvStem(tile_size=64, stem_width=8, width=64)
    probe_encoder(right)
    with pytest.raises(
        ValueError, match="encoder ConvStem must give the features of patches in raster"
    ):
        probe_encoder(FusedEncoder(encoders={"right": right, "own": own}))


def test_maps_and_meta_are_not_tried() -> None:
    own: nn.Module = Transposed(tile_size=64, stem_width=8, width=16)
    probe_encoder(own.to("meta"))
    maps = Transposed(tile_size=64, stem_width=8, width=16)
    maps.from_maps = True
    probe_encoder(maps)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("part", "protocol", "absent"),
    [
        ("encoder", Encoder, "grid_for"),
        ("bridge", Bridge, "grid_for"),
        ("merger", Merger, "layout"),
    ],
)
def test_a_part_that_lacks_a_member(part: str, protocol: type, absent: str) -> None:
    whole = getattr(tiny_vlm(), part)
    check_members(whole, protocol, part)
    members = {key: None for key in dir(whole) if not key.startswith("_") and key != absent}
    old = type("Old", (), members)()
    with pytest.raises(
        ValueError, match=f"{part} Old must have {absent}; add what is missing as hdvl.protocols"
    ):
        check_members(old, protocol, part)


class NoGrid(MLP):
    """A bridge whose class a user wrote; ``off`` changes the width that it returns."""

    def __init__(
        self, *, in_width: int, out_width: int, grid: Any, off: int = 0, **more: Any
    ) -> None:
        super().__init__(in_width=in_width, out_width=out_width + off, grid=grid, **more)


class Narrow(MLP):
    """Takes features of half the width."""

    def __init__(self, *, in_width: int, out_width: int, grid: Any, stride: int = 1) -> None:
        super().__init__(in_width=in_width // 2, out_width=out_width, grid=grid)


class OneToken(MLP):
    """Returns one token, and says that it returns one for each patch."""

    def forward(self, features: Tensor, grid: Any = None) -> Tensor:
        return super().forward(features, grid)[:, :1]


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    ("bridge", "message"),
    [
        (
            {"_target_": f"{__name__}.NoGrid", "off": 3},
            "bridge NoGrid must return width 32, .* got 35",
        ),
        ({"_target_": f"{__name__}.Narrow"}, "bridge Narrow must take the features of a tile"),
        (
            {"_target_": f"{__name__}.OneToken"},
            r"bridge OneToken must return \d+ tokens .* grid_for",
        ),
        (
            {"_target_": f"{__name__}.Narrow", "strid": 7},
            r"^bridge\.strid must be an argument of Narrow, strid is not, did you mean stride\?$",
        ),
        (
            {"_target_": f"{__name__}.Narrow", "_partial_": False},
            "^Narrow needs in_width, out_width and grid, .* _partial_: true",
        ),
    ],
)
def test_own_bridges_that_do_not_fit(bridge: dict[str, Any], message: str) -> None:
    node = {**NODE, "bridge": {"_partial_": True, **bridge}}
    with pytest.raises(ValueError, match=message) as caught:
        build(node)
    assert "\n" not in str(caught.value)
