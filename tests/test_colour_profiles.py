"""Embedded colour profiles are converted to sRGB where a tiler asks for it, in every backend."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageCms

from hdvl.config import CONF_DIR
from hdvl.images import read_image
from hdvl.tilers import Squash


def swapped_profile() -> bytes:
    """A profile of sRGB with the primaries red and blue swapped, so that (255, 0, 0) is blue."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"\0tmp"), (b"bXYZ", b"rXYZ"), (b"\0tmp", b"bXYZ")):
        data = data.replace(old, new, 1)
    return data.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be")).replace(
        b"sRGB", b"mine"
    )


def encoded(profile: bytes | None, kind: str = "PNG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (40, 30), (250, 10, 20)).convert(mode, palette=Image.Palette.ADAPTIVE)
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image.save(file, kind, icc_profile=profile, **options)
    return file.getvalue()


def close(found: Any, wanted: tuple[int, ...]) -> bool:
    return bool(np.abs(np.asarray(found).astype(int) - wanted).max() <= 6)


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("JPEG", "RGB"), ("PNG", "RGBA"), ("PNG", "P")]
)
def test_colours_are_converted(kind: str, mode: str) -> None:
    source = encoded(swapped_profile(), kind, mode)
    assert close(read_image(source), (20, 10, 250))
    assert close(read_image(source, srgb=False), (250, 10, 20))


@pytest.mark.parametrize("backend", ["pillow", "exact", "fast"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_backend(backend: Any, kind: str) -> None:
    for srgb, wanted in ((True, (20, 10, 250)), (False, (250, 10, 20))):
        tiles = Squash(tile_size=8, backend=backend, srgb=srgb)(encoded(swapped_profile(), kind))
        assert close(tiles.pixels[0].permute(1, 2, 0).numpy(), wanted)


def test_srgb_itself_is_left_alone() -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (None, own):
        assert np.array_equal(
            np.asarray(read_image(encoded(profile))),
            np.asarray(read_image(encoded(profile), srgb=False)),
        )


def test_a_damaged_profile_is_told() -> None:
    with pytest.warns(UserWarning, match="its colour profile cannot be used, its values are taken"):
        found = read_image(encoded(b"no profile at all" * 20))
    assert close(found, (250, 10, 20))


OWN = {
    "sliding_window",
    "dynamic_ratio",
    "anyres",
    "squash",
    "native",
    "native_tiles",
    "longest_edge",
}


@pytest.mark.parametrize("path", sorted((CONF_DIR / "tiler").glob("*.yaml")), ids=lambda p: p.stem)
def test_published_systems_ignore_profiles(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    inherits = path.stem in ("small", "smolvlm2")  # of sliding_window and of smolvlm
    assert node.get("srgb") == (None if inherits else path.stem in OWN)
