"""Images as ``data:`` URLs, the form in which servers with OpenAI's interface take them."""

import base64
import io

from PIL import Image

from hdvl.images.files import ImageSource, name_of, read_bytes
from hdvl.images.reading import load_pixels, open_image, read_image

SENT = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that all these servers read; others are sent as PNG."""


def data_url(source: ImageSource) -> str:
    """The image as a ``data:`` URL: its file as it is if servers read the format, else a PNG of its pixels.

    Raises:
        ValueError: the file is damaged or no image.
        OSError: it cannot be read.
    """
    name = name_of(source)
    opened = open_image(source)
    kind = SENT.get(opened.format or "")
    if kind is not None and not isinstance(source, Image.Image):
        load_pixels(opened, name=name)
        data = read_bytes(source)
    else:
        held = io.BytesIO()
        read_image(source).save(held, "PNG")
        kind, data = SENT["PNG"], held.getvalue()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
