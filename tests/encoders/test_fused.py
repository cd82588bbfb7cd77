from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hdvl.encoders import FusedEncoder, normalise
from hdvl.protocols import Encoder


def test_features_are_concatenated(
    patches: Callable[..., Any], noise: Callable[..., Tensor]
) -> None:
    a, b = patches(width=8), patches(width=5, mean=0.3)
    fused = FusedEncoder(encoders={"a": a, "b": b})
    tiles = noise(2, 32)
    assert isinstance(fused, Encoder)
    assert (fused.width, fused.tile_size, fused.grid) == (13, 32, (4, 4))
    assert torch.equal(fused(tiles), torch.cat([a(tiles), b(tiles)], dim=2))
    assert sorted(fused.state_dict())[0] == "encoders.a.conv.bias"


def test_float_pixels_are_normalised_anew_for_each(
    patches: Callable[..., Any], noise: Callable[..., Tensor]
) -> None:
    fused = FusedEncoder(encoders={"a": patches(), "b": patches(mean=0.3)})
    tiles = noise(1, 32)
    pixels = normalise(tiles, fused.mean, fused.std, torch.float32)
    assert torch.allclose(fused(pixels), fused(tiles), atol=1e-5)


@pytest.mark.parametrize("how", ["nearest", "bilinear", "bicubic"])
def test_grids_are_interpolated_only_when_asked(
    how: Any, patches: Callable[..., Any], noise: Callable[..., Tensor]
) -> None:
    a, b = patches(), patches(patch=16)
    with pytest.raises(
        ValueError, match=r"one grid, got .*'a': \(4, 4\), 'b': \(2, 2\).*interpolate"
    ):
        FusedEncoder(encoders={"a": a, "b": b})
    tiles = noise(2, 32)
    features = FusedEncoder(encoders={"a": a, "b": b}, interpolate=how)(tiles)
    maps = b(tiles).transpose(1, 2).reshape(2, 8, 2, 2)
    options = {} if how == "nearest" else {"align_corners": False}
    larger = nn.functional.interpolate(maps, (4, 4), mode=how, **options)
    assert torch.equal(features[..., 8:], larger.flatten(2).transpose(1, 2))
    assert torch.equal(features[..., :8], a(tiles))


def test_wrong_encoders(patches: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"encoders must be two or more, got \['a'\]"):
        FusedEncoder(encoders={"a": patches()})
    with pytest.raises(ValueError, match=r"one tile_size, got \{'a': 32, 'b': 64\}"):
        FusedEncoder(encoders={"a": patches(), "b": patches(tile_size=64)})
