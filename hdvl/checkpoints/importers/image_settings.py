"""What the file of an image processor of transformers says, in the terms of hdvl's tilers and encoders."""

from collections.abc import Mapping
from typing import Any

FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters, which the files hold."""

CLIP_STATISTICS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

GOT_OCR2 = {
    **CLIP_STATISTICS,
    "do_convert_rgb": True,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "size": {"height": 384, "width": 384},
    "min_patches": 1,
    "max_patches": 12,
}
"""What ``GotOcr2ImageProcessor``, which InternVL and Aya Vision use, does where its file says nothing."""


def dynamic_tiles(settings: Mapping[str, Any], *, source: object) -> dict[str, Any]:
    """The options of ``DynamicRatio`` that cut an image as ``GotOcr2ImageProcessor`` does.

    The processors of InternVL and Aya Vision cut every image into tiles, whatever
    ``crop_to_patches`` says in the file. Without a file the preset's options stand: nothing is returned.

    Raises:
        ValueError: a setting that the tiler cannot follow; all are named.
    """
    if not settings:
        return {}
    told = {**GOT_OCR2, **settings}
    size = told["size"]
    sides = {size.get("height"), size.get("width")} if isinstance(size, Mapping) else set()
    wanted = {
        "do_convert_rgb": told["do_convert_rgb"] is True,
        "do_resize": told["do_resize"] is True,
        "do_rescale": told["do_rescale"] is True,
        "resample": told["resample"] in FILTERS,
        "size": len(sides) == 1 and all(isinstance(side, int) for side in sides),
        "max_patches": isinstance(told["max_patches"], int),
        "min_patches": isinstance(told["min_patches"], int),
    }
    wrong = [f"{name}={told[name]}" for name, right in wanted.items() if not right]
    if wrong:
        raise ValueError(
            f"image processor of {str(source)!r} asks for what hdvl does not do: {'; '.join(wrong)}"
        )
    return {
        "tile_size": sides.pop(),
        "min_tiles": told["min_patches"],
        "max_tiles": told["max_patches"],
        "resample": FILTERS[told["resample"]],
    }


def statistics(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``mean`` and ``std`` of pixels between 0 and 1, as ``GotOcr2ImageProcessor`` normalises them.

    A ``rescale_factor`` other than 1/255 is a matter of units: it is put into both. Without a file
    the preset's numbers stand: nothing is returned.
    """
    if not settings:
        return {}
    told = {**GOT_OCR2, **settings}
    unit = told["rescale_factor"] * 255
    mean, std = told["image_mean"], told["image_std"]
    if not told["do_normalize"]:
        mean, std = [0.0] * 3, [1.0] * 3
    if abs(unit - 1) < 1e-6:
        return {"mean": list(mean), "std": list(std)}
    return {"mean": [level / unit for level in mean], "std": [level / unit for level in std]}
