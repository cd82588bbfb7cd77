from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hdvl.encoders import FusedEncoder, TimmEncoder, fold_normalisation


def error(features: Tensor, exact: Tensor) -> float:
    return float(((features.double() - exact).norm() / exact.norm()).detach())


@pytest.mark.parametrize("bias", [True, False])
def test_exact_in_fp32(
    bias: bool, patches: Callable[..., Any], noise: Callable[..., Tensor]
) -> None:
    encoder, tiles = patches(width=64, bias=bias), noise(4, 32)
    exact = deepcopy(encoder).double()(tiles)
    plain = error(encoder(tiles), exact)
    folded = error(fold_normalisation(encoder)(tiles), exact)
    assert folded < 1e-6
    assert plain < 1e-6


def test_bf16_is_no_worse_than_plain_bf16(
    patches: Callable[..., Any], noise: Callable[..., Tensor]
) -> None:
    encoder, tiles = patches(width=64), noise(4, 32)
    exact = deepcopy(encoder).double()(tiles)
    encoder.bfloat16()
    plain = error(encoder(tiles), exact)
    assert error(fold_normalisation(encoder)(tiles), exact) < plain


def test_state_and_gradients_stay(
    patches: Callable[..., Any], noise: Callable[..., Tensor]
) -> None:
    encoder, tiles = patches(), noise(2, 32)
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder(tiles).square().sum().backward()
    before = [parameter.grad.clone() for parameter in encoder.parameters()]
    encoder.zero_grad()
    assert fold_normalisation(encoder) is encoder
    assert all(torch.equal(state[key], value) for key, value in encoder.state_dict().items())
    assert list(encoder.state_dict()) == list(state)
    encoder(tiles).square().sum().backward()
    for old, parameter in zip(before, encoder.parameters(), strict=True):
        assert torch.allclose(parameter.grad, old, rtol=1e-4, atol=1e-3)


def test_float_pixels_still_count_as_normalised(
    patches: Callable[..., Any], noise: Callable[..., Tensor]
) -> None:
    encoder, tiles = patches(), noise(2, 32)
    pixels = encoder.pixels(tiles, torch.float32)
    plain = encoder(pixels)
    assert torch.allclose(fold_normalisation(encoder)(pixels), plain, atol=1e-5)


def test_inside_a_fused_encoder(patches: Callable[..., Any], noise: Callable[..., Tensor]) -> None:
    fused, tiles = FusedEncoder(encoders={"a": patches(), "b": patches(mean=0.3)}), noise(2, 32)
    plain = fused(tiles)
    assert torch.allclose(fold_normalisation(fused)(tiles), plain, atol=1e-5)


def test_a_whole_vit(noise: Callable[..., Tensor]) -> None:
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    encoder = TimmEncoder(name="vit_small_patch16_224", config=size).eval()
    tiles = noise(2, 32)
    plain = encoder(tiles)
    assert torch.allclose(fold_normalisation(encoder)(tiles), plain, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_folded(patches: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"one convolution .* got \['conv padding=\(1, 1\)'\]"):
        fold_normalisation(patches(padding=1))
    with pytest.raises(ValueError, match="must normalise its pixels to fold that, got Conv2d"):
        fold_normalisation(nn.Conv2d(3, 8, 4))
    folded = fold_normalisation(patches())
    with pytest.raises(ValueError, match="must normalise its pixels to fold that, got Patches"):
        fold_normalisation(folded)
