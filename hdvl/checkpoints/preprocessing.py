"""Records the preprocessing of a model when it is saved, so that later changes are detected.

Three computed images are tiled. Hashes of the tiles detect any difference, and their means show how large
it is: resize kernels of different processors differ by about a grey level, a changed filter or grid by much
more.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hdvl.files import read_json
from hdvl.model import VLM
from hdvl.protocols import Encoder, Tiler
from hdvl.views import view_pixels

FILE = "preprocessing.json"
SIZES = ((97, 61), (640, 420), (233, 1200))
TOLERANCE = 0.5
"""The difference in grey levels that the mean of a tile may have between machines."""


def golden_image(width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """An image with gradients, edges and fine detail, computed with integers and so equal on all machines."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    red = (x * 255) // max(1, width - 1)
    green = ((x // 7 + y // 5) % 2) * 200 + (x * y) % 41
    blue = (x * x + 3 * y * y + x * y) // 97 % 256
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def describe(tiler: Tiler, encoder: Encoder, node: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``preprocessing.json``: options of the tiler, of the encoder, and golden tiles."""
    return {
        "tiler": dict(node),
        "encoder": {
            "tile_size": encoder.tile_size,
            "grid": list(encoder.grid),
            "mean": list(encoder.mean),
            "std": list(encoder.std),
        },
        "golden": [_golden(tiler, width, height) for width, height in SIZES],
    }


def _golden(tiler: Tiler, width: int, height: int) -> dict[str, Any]:
    tiles = tiler(golden_image(width, height))
    plan = tiles.plan
    views = [view.contiguous() for view in view_pixels(tiles.pixels, plan)]
    digest = hashlib.sha256()
    for view in views:
        digest.update(view.numpy().tobytes())
    return {
        "width": width,
        "height": height,
        "plan": [plan.rows, plan.cols, *plan.canvas, plan.count],
        "sha256": digest.hexdigest(),
        "tile_means": [round(float(view.double().mean()), 4) for view in views],
    }


def drifts(stored: Mapping[str, Any], vlm: VLM) -> list[str]:
    """Differences between the content of ``preprocessing.json`` and the preprocessing of ``vlm``.

    Different hashes do not count if the means agree within ``TOLERANCE``.
    """
    now = describe(vlm.tiler, vlm.encoder, stored["tiler"])
    found = [
        f"encoder {key} was {old}, is {now['encoder'][key]}"
        for key, old in stored["encoder"].items()
        if now["encoder"][key] != old
    ]
    for old, new in zip(stored["golden"], now["golden"], strict=True):
        image = f"image of {old['width']}x{old['height']}"
        if new["plan"] != old["plan"]:
            found.append(f"{image}: plan was {old['plan']}, is {new['plan']}")
        elif new["sha256"] != old["sha256"]:
            pairs = zip(old["tile_means"], new["tile_means"], strict=True)
            far = max(abs(a - b) for a, b in pairs)
            if far > TOLERANCE:
                found.append(f"{image}: the mean of a tile moved by {far:.2f} grey levels")
    return found


def verify(folder: str | Path, vlm: VLM) -> list[str]:
    """Differences between the preprocessing of ``vlm`` and the record in ``folder``, if there are any."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise ValueError(f"model folder {str(folder)!r} has no {FILE}; save the model again")
    stored = read_json(file)
    try:
        return drifts(stored, vlm)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{str(file)!r} must hold tiler, encoder and golden tiles as hdvl writes them, it does not: "
            f"{type(error).__name__}: {error}; save the model again"
        ) from error
