"""Reads every image that Pillow can open as one upright RGB image, or raises one clear error."""

from hdvl.images.files import MAX_BYTES, SOURCES, ImageSource, is_base64, name_of, read_bytes
from hdvl.images.profiles import has_other_profile, to_srgb
from hdvl.images.reading import (
    BYTES_PER_PIXEL,
    DECODER_COST,
    MAX_PIXELS,
    Colour,
    load_pixels,
    open_image,
    orientation,
    read_image,
    rgb_bands,
    upright_rgb,
)
from hdvl.images.urls import data_url

__all__ = [
    "BYTES_PER_PIXEL",
    "DECODER_COST",
    "MAX_BYTES",
    "MAX_PIXELS",
    "SOURCES",
    "Colour",
    "ImageSource",
    "data_url",
    "has_other_profile",
    "is_base64",
    "load_pixels",
    "name_of",
    "open_image",
    "orientation",
    "read_bytes",
    "read_image",
    "rgb_bands",
    "to_srgb",
    "upright_rgb",
]
