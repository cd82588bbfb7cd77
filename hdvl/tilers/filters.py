"""Antialiased resampling by Pillow and by torch."""

from typing import Any

from PIL import Image


def resize_pillow(image: Image.Image, size: tuple[int, int], resample: str) -> Image.Image:
    """Resize an image to ``size`` (width, height) with antialiasing, identically in Pillow 12 and 13.

    Pillow 13 resizes the height of tall images first, earlier versions always the width. The results
    differ, because values are clipped between the two passes. Each axis is therefore resized separately.
    """
    kind = Image.Resampling[resample.upper()]
    return image.resize((size[0], image.height), kind).resize(size, kind)


def torch_filter(resample: str) -> Any:
    """Return the antialiased resize operator of torch for uint8 images.

    Raises:
        ValueError: the installed version of torch lacks the filter.
    """
    import torch

    name = f"_upsample_{resample}2d_aa"
    if not hasattr(torch.ops.aten, name):
        raise ValueError(
            f"resample={resample} is not in torch {torch.__version__}; use backend=pillow, or a newer "
            "torch (lanczos came with 2.12)"
        )
    return getattr(torch.ops.aten, name)
