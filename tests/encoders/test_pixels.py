from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hdvl.encoders import Normalise, normalise

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_uint8_is_normalised_in_float64(noise: Callable[..., Tensor]) -> None:
    tiles = noise(2, 8)
    mean, std = (
        torch.tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in (MEAN, STD)
    )
    assert torch.equal(
        normalise(tiles, MEAN, STD, torch.float64), (tiles.double() / 255 - mean) / std
    )


def test_half_precision_is_rounded_once(noise: Callable[..., Tensor]) -> None:
    tiles = noise(1, 8)
    wide = normalise(tiles, MEAN, STD, torch.float32)
    assert torch.equal(normalise(tiles, MEAN, STD, torch.bfloat16), wide.bfloat16())


def test_float_is_taken_as_normalised() -> None:
    pixels = torch.randn(1, 3, 4, 4)
    assert torch.equal(normalise(pixels, MEAN, STD, torch.float32), pixels)


def test_the_input_is_left_alone(noise: Callable[..., Tensor]) -> None:
    tiles = noise(1, 8)
    before = tiles.clone()
    normalise(tiles, MEAN, STD, torch.float32)
    assert torch.equal(tiles, before)


def test_wrong_pixels() -> None:
    with pytest.raises(ValueError, match=r"one channel for each mean and std, got channels=1, len"):
        normalise(torch.zeros(1, 1, 2, 2), MEAN, STD, torch.float32)
    with pytest.raises(ValueError, match=r"pixels must be uint8 or float, got dtype=torch\.int64"):
        normalise(torch.zeros(1, 3, 2, 2, dtype=torch.int64), MEAN, STD, torch.float32)


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match=r"std positive, got mean=\[0\.5\], std=\[0\.0\]"):
        Normalise(mean=[0.5], std=[0.0])


def test_the_module_holds_no_tensors() -> None:
    assert not Normalise(mean=MEAN, std=STD).state_dict()


def test_the_memory_format_of_pixels_has_no_effect() -> None:
    pixels = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    there = pixels.contiguous(memory_format=torch.channels_last)
    options = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), torch.float32
    here, other = normalise(pixels, *options), normalise(there, *options)
    assert torch.equal(here, other) and here.stride() == other.stride()
