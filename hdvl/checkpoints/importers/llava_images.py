"""Translates the image processors of LLaVA models to options of hdvl's tilers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hdvl.checkpoints.importers.image_settings import CLIP_STATISTICS, FILTERS

_PROCESSOR = re.compile(r"(CLIP|Llava|Siglip)(ImageProcessor|FeatureExtractor)(Fast|Pil)?")
_COMMON = {
    **CLIP_STATISTICS,
    "do_convert_rgb": True,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "do_pad": None,
    "pad_size": None,
    "crop_size": None,
}
_CROPS = {"do_center_crop": True, "size": {"shortest_edge": 224}, "crop_size": {"height": 224}}
_SQUASHES = {"do_center_crop": None, "size": {"height": 224, "width": 224}}


def one_view(settings: Mapping[str, Any], side: int, *, source: object) -> dict[str, Any]:
    """The options of ``Squash`` that make one view of ``side`` pixels as the image processor does.

    The processors of CLIP, SigLIP and LLaVA are supported. With ``do_pad``, LLaVA's pads the image to a
    square in the mean colour first. Those of CLIP and LLaVA crop the centre of the resized image, that of
    SigLIP does not. Empty ``settings`` (no file) mean a centre crop of an image whose shortest edge is
    ``side``.

    Raises:
        ValueError: the views are not squares of ``side`` pixels, or the tiler does not support a setting.
    """
    kind = _PROCESSOR.fullmatch(_kind(settings) or "CLIPImageProcessor")
    if kind is None:
        raise ValueError(
            f"image processor of {source} must be one of CLIP, SigLIP or LLaVA, got {_kind(settings)!r}"
        )
    if not settings:
        return {"tile_size": side, "fit": "crop"}
    settings = {**_COMMON, **(_SQUASHES if kind[1] == "Siglip" else _CROPS), **settings}
    resized, square = _edge(settings["size"], square=kind[1] == "Siglip")
    cropped = (
        _edge(settings["crop_size"], square=True)[0] if settings["do_center_crop"] else resized
    )
    pads = kind[1] == "Llava" and bool(settings["do_pad"])
    expected = {
        **common_settings(settings),
        "size": resized is not None and (square or pads or bool(settings["do_center_crop"])),
        "crop_size": cropped == side and (resized == side or not (square or pads)),
        "pad_size": settings["pad_size"] is None,
    }
    refuse_settings(settings, expected, source, side=side)
    found = {"tile_size": side, "resample": FILTERS[settings["resample"]]}
    if pads:
        return {**found, "fit": "pad_image", "padding": "mean"}
    if square:
        return {**found, "fit": "squash"}
    return {**found, "fit": "crop", "shortest_edge": None if resized == side else resized}


def any_resolution(
    settings: Mapping[str, Any], pinpoints: Sequence[Sequence[int]], side: int, *, source: object
) -> dict[str, Any]:
    """The options of ``AnyRes`` for tiles of ``side`` pixels and canvases of (height, width) ``pinpoints``.

    Raises:
        ValueError: a canvas is not made of whole tiles, the model and the image processor have different
            canvases, or the tiler does not support a setting.
    """
    settings = {**_COMMON, "size": {"height": side, "width": side}, **settings}
    canvases = [list(pair) for pair in pinpoints]
    expected = {
        **common_settings(settings),
        "size": _edge(settings["size"], square=True)[0] == side,
        "crop_size": settings["crop_size"] is None
        or _edge(settings["crop_size"], square=True)[0] == side,
        "image_grid_pinpoints": canvases
        == [list(pair) for pair in settings.setdefault("image_grid_pinpoints", canvases)]
        and not any(length % side for pair in canvases for length in pair),
    }
    refuse_settings(settings, expected, source, side=side)
    grids = [[high // side, wide // side] for high, wide in canvases]
    return {
        "tile_size": side,
        "grids": grids,
        "max_tiles": max(rows * cols for rows, cols in grids),
        "resample": FILTERS[settings["resample"]],
    }


def common_settings(settings: Mapping[str, Any]) -> dict[str, bool]:
    """For each setting that all image processors have, whether hdvl supports its value."""
    return {
        "do_resize": settings["do_resize"] is True,
        "do_rescale": settings["do_rescale"] is True,
        "resample": settings["resample"] in FILTERS,
    }


def refuse_settings(
    settings: Mapping[str, Any], expected: Mapping[str, bool], source: object, *, side: int
) -> None:
    """Raise an error that names every setting whose value in ``expected`` is False."""
    wrong = [f"{name}={settings[name]}" for name, right in expected.items() if not right]
    if wrong:
        raise ValueError(
            f"image processor of {source} has settings that hdvl does not support with a vision tower of "
            f"{side} x {side} pixels: {'; '.join(wrong)}"
        )


def _kind(settings: Mapping[str, Any]) -> str | None:
    found = settings.get("image_processor_type", settings.get("feature_extractor_type"))
    return None if found is None else str(found)


def _edge(size: Any, *, square: bool) -> tuple[int | None, bool]:
    """The length that a size sets, and whether both sides get it; None if it sets several lengths.

    ``square`` is the second value for a size that is a number.
    """
    if isinstance(size, int):
        return size, square
    sides = {key: side for key, side in (size or {}).items() if side is not None}
    if set(sides) == {"shortest_edge"}:
        return sides["shortest_edge"], False
    same = set(sides) <= {"height", "width"} and len(set(sides.values())) == 1
    return (next(iter(sides.values())), True) if same else (None, False)
