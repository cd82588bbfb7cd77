"""The resampling filters of resizing, by Pillow and by torch."""

from typing import Any

from PIL import Image


def resize_pillow(image: Image.Image, size: tuple[int, int], resample: str) -> Image.Image:
    """Antialiased resize to ``size`` (width, height), the same under Pillow 12 and 13.

    Pillow 13 resizes tall images height first, earlier versions always width first, and the
    clipping between the passes makes that visible. One axis at a time leaves no choice.
    """
    kind = Image.Resampling[resample.upper()]
    return image.resize((size[0], image.height), kind).resize(size, kind)


def torch_filter(resample: str) -> Any:
    """torch's antialiased operator for uint8 images.

    Raises:
        ValueError: this version of torch lacks the filter.
    """
    import torch

    name = f"_upsample_{resample}2d_aa"
    if not hasattr(torch.ops.aten, name):
        raise ValueError(
            f"resample={resample} is not in torch {torch.__version__}; use backend=pillow, or a newer "
            "torch (lanczos came with 2.12)"
        )
    return getattr(torch.ops.aten, name)
