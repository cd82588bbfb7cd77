"""Converts images with an embedded colour profile (ICC) to sRGB."""

import io
import warnings

from PIL import Image, ImageCms

_OUTPUT = {"RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "L": "RGB"}
"""Modes that are converted, and the modes they become. Images of other modes keep their values."""


def has_other_profile(image: Image.Image) -> bool:
    """Whether an opened image has a colour profile besides that of sRGB."""
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or not data:
        return False
    return b"sRGB" not in data and "sRGB".encode("utf-16-be") not in data


def to_srgb(image: Image.Image, *, name: str) -> Image.Image:
    """Convert a decoded image from its colour profile to sRGB.

    An image without a profile, or with that of sRGB, is returned as it is. So is, with a warning, one whose
    profile is damaged or does not fit its mode.
    """
    if not has_other_profile(image):
        return image
    if image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode not in _OUTPUT:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode=_OUTPUT[image.mode]
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        warnings.warn(
            f"image {name}: its colour profile cannot be used, its values are taken as sRGB: {error}",
            stacklevel=3,
        )
        return image
    assert converted is not None  # only with inPlace=True there is no new image
    converted.info.pop("icc_profile", None)
    return converted
