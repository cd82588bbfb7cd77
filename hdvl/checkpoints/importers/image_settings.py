"""Translates the settings of image processors of transformers to options of tilers and encoders."""

from collections.abc import Mapping
from typing import Any

from hdvl.checkpoints.importers.base import refuse_unsupported

FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the resampling filters -> their names in hdvl."""

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
"""Default settings of ``GotOcr2ImageProcessor``, which InternVL and Aya Vision use."""


def dynamic_tiles(settings: Mapping[str, Any], *, source: object) -> dict[str, Any]:
    """The options of ``DynamicRatio`` that cut an image as ``GotOcr2ImageProcessor`` does.

    The processors of InternVL and Aya Vision cut every image into tiles, whatever value
    ``crop_to_patches`` has in the file. Empty ``settings`` (no file) give no options.

    Raises:
        ValueError: settings that the tiler does not support; all of them are named.
    """
    if not settings:
        return {}
    settings = {**GOT_OCR2, **settings}
    size = settings["size"]
    sides = {size.get("height"), size.get("width")} if isinstance(size, Mapping) else set()
    expected = {
        "do_convert_rgb": settings["do_convert_rgb"] is True,
        "do_resize": settings["do_resize"] is True,
        "do_rescale": settings["do_rescale"] is True,
        "resample": settings["resample"] in FILTERS,
        "size": len(sides) == 1 and all(isinstance(side, int) for side in sides),
        "max_patches": isinstance(settings["max_patches"], int),
        "min_patches": isinstance(settings["min_patches"], int),
    }
    wrong = [f"{name}={settings[name]}" for name, right in expected.items() if not right]
    refuse_unsupported(wrong, source=source, file="image processor")
    return {
        "tile_size": sides.pop(),
        "min_tiles": settings["min_patches"],
        "max_tiles": settings["max_patches"],
        "resample": FILTERS[settings["resample"]],
    }


def statistics(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``mean`` and ``std`` of pixels between 0 and 1, as ``GotOcr2ImageProcessor`` normalises them.

    A ``rescale_factor`` other than 1/255 is converted into both. Empty ``settings`` (no file) give no
    options.
    """
    if not settings:
        return {}
    settings = {**GOT_OCR2, **settings}
    unit = settings["rescale_factor"] * 255
    mean, std = settings["image_mean"], settings["image_std"]
    if not settings["do_normalize"]:
        mean, std = [0.0] * 3, [1.0] * 3
    if abs(unit - 1) < 1e-6:
        return {"mean": list(mean), "std": list(std)}
    return {"mean": [level / unit for level in mean], "std": [level / unit for level in std]}
