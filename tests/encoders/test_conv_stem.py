"""The convolutional stem: one feature per 8 x 8 pixels, in raster order."""

import pytest
import torch

from hdvl.encoders.conv_stem import ConvStem


def stem(**options):
    torch.manual_seed(0)
    return ConvStem(**{"tile_size": 64, "stem_width": 8, "width": 12, "depth": 1, **options}).eval()


def test_features_in_raster_order():
    encoder = stem(tile_size=128)
    pixels = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    changed = pixels.clone()
    changed[..., 8 * 9 : 8 * 10, 8 * 4 : 8 * 5] = 255
    with torch.no_grad():
        difference = (encoder(changed) - encoder(pixels)).abs().sum(-1)[0]
    assert difference.shape == (256,)
    assert int(difference.argmax()) in {9 * 16 + 4, 9 * 16 + 3, 9 * 16 + 5, 8 * 16 + 4, 10 * 16 + 4}
    assert difference.view(16, 16)[:2].sum() == 0  # out of sight: lines reach sideways only


def test_uint8_is_normalised_and_float_is_not():
    encoder = stem()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    normalised = (pixels.float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels), encoder(normalised), atol=1e-4, rtol=1e-4)


def test_tile_size_must_be_a_multiple_of_the_stride():
    with pytest.raises(ValueError, match="tile_size must be a multiple of 8, got 60"):
        stem(tile_size=60)
