"""How the image processors of LLaVA's folders read an image, in the terms of hdvl's tilers."""

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

    The processors are those of CLIP, SigLIP and LLaVA. ``do_pad`` of LLaVA's own pads the image to a square
    in the mean colour first; CLIP's and LLaVA's cut the middle out of the resized image, SigLIP's do not.
    Without a file (empty ``settings``) the middle is cut out of an image whose shortest edge is ``side``.

    Raises:
        ValueError: the views are not ``side`` pixels square, or a setting has no like in the tiler.
    """
    kind = _PROCESSOR.fullmatch(_kind(settings) or "CLIPImageProcessor")
    if kind is None:
        raise ValueError(
            f"image processor of {source} must be one of CLIP, SigLIP or LLaVA, got {_kind(settings)!r}"
        )
    if not settings:
        return {"tile_size": side, "fit": "crop"}
    told = {**_COMMON, **(_SQUASHES if kind[1] == "Siglip" else _CROPS), **settings}
    resized, square = _edge(told["size"], square=kind[1] == "Siglip")
    cropped = _edge(told["crop_size"], square=True)[0] if told["do_center_crop"] else resized
    pads = kind[1] == "Llava" and bool(told["do_pad"])
    wanted = {
        **common_settings(told),
        "size": resized is not None and (square or pads or bool(told["do_center_crop"])),
        "crop_size": cropped == side and (resized == side or not (square or pads)),
        "pad_size": told["pad_size"] is None,
    }
    refuse_settings(told, wanted, source, side=side)
    found = {"tile_size": side, "resample": FILTERS[told["resample"]]}
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
        ValueError: a canvas is not made of whole tiles, the model and the image processor have other
            canvases, or a setting has no like in the tiler.
    """
    told = {**_COMMON, "size": {"height": side, "width": side}, **settings}
    canvases = [list(pair) for pair in pinpoints]
    wanted = {
        **common_settings(told),
        "size": _edge(told["size"], square=True)[0] == side,
        "crop_size": told["crop_size"] is None or _edge(told["crop_size"], square=True)[0] == side,
        "image_grid_pinpoints": canvases
        == [list(pair) for pair in told.setdefault("image_grid_pinpoints", canvases)]
        and not any(length % side for pair in canvases for length in pair),
    }
    refuse_settings(told, wanted, source, side=side)
    grids = [[high // side, wide // side] for high, wide in canvases]
    return {
        "tile_size": side,
        "grids": grids,
        "max_tiles": max(rows * cols for rows, cols in grids),
        "resample": FILTERS[told["resample"]],
    }


def common_settings(told: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each setting that all image processors have is one that hdvl follows."""
    return {
        "do_resize": told["do_resize"] is True,
        "do_rescale": told["do_rescale"] is True,
        "resample": told["resample"] in FILTERS,
    }


def refuse_settings(
    told: Mapping[str, Any], wanted: Mapping[str, bool], source: object, *, side: int
) -> None:
    """An error that names every setting of ``wanted`` that is not followed."""
    wrong = [f"{name}={told[name]}" for name, right in wanted.items() if not right]
    if wrong:
        raise ValueError(
            f"image processor of {source} asks for what hdvl does not do with a vision tower of "
            f"{side} x {side} pixels: {'; '.join(wrong)}"
        )


def _kind(settings: Mapping[str, Any]) -> str | None:
    found = settings.get("image_processor_type", settings.get("feature_extractor_type"))
    return None if found is None else str(found)


def _edge(size: Any, *, square: bool) -> tuple[int | None, bool]:
    """The one edge that a size names, and whether both sides get it; None if it names more.

    ``square`` is what a bare number means, and a height without a width.
    """
    if isinstance(size, int):
        return size, square
    sides = {key: side for key, side in (size or {}).items() if side is not None}
    if set(sides) == {"shortest_edge"}:
        return sides["shortest_edge"], False
    same = set(sides) <= {"height", "width"} and len(set(sides.values())) == 1
    return (next(iter(sides.values())), True) if same else (None, False)
