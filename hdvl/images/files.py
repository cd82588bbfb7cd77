"""Reads the bytes of an image from a regular file of limited size, or from base64 text.

This module does not decode pixels.
"""

import base64
import binascii
import errno
import os
import re
import stat
from typing import Any

import numpy as np
from PIL import Image

SOURCES = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray
"""The accepted kinds of images: a path, base64 of a file (alone or as ``data:`` URL), the bytes of a file, a
Pillow image, or an array h w [c]."""

MAX_BYTES = 512 * 2**20
"""The largest size of an image file in bytes, which is checked before it is read."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# The beginnings of JPEG, PNG, GIF, WebP and TIFF files in base64, which are too long to be paths.
# The quantifiers are possessive (``+``), so that other texts are recognised in linear time.
_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK)[A-Za-z0-9+/\s]{40,}+={0,2}+\s*+")
_SHOWN = 200
"""The number of characters of a path that errors show at its beginning."""
# Errors for paths that no file can have, besides those for which Python has an exception class.
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ENODEV)


def read_bytes(source: Any) -> bytes:
    """The bytes of a file given as path, as bytes or in base64. URLs other than ``data:`` are not fetched."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str) and (source[:5].lower() == "data:" or is_base64(source)):
        return _from_base64(source)
    if isinstance(source, str) and _URL.match(source):
        raise ValueError(f"an image must not be a URL to fetch, got {source[:200]!r}; download it")
    if isinstance(source, str | os.PathLike):
        return _read_file(source)
    raise TypeError(
        "an image must be a path, bytes, a Pillow image or a numpy array, "
        f"got {type(source).__name__}"
    )


def _read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file of at most ``MAX_BYTES``.

    Pipes, devices and sockets are not opened, because reading them may block or never end.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno in _NO_PATH:
            raise ValueError(
                f"an image must be a file, got {name_of(path)}: {error.strerror}"
            ) from error
        raise
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "something else")
        raise ValueError(f"image {name_of(path)} must be a regular file, it is {kind}")
    if status.st_size > MAX_BYTES:
        raise ValueError(
            f"image {name_of(path)} is too large: {status.st_size} bytes are more than the "
            f"{MAX_BYTES} bytes that an image file may have; scale it down or compress it"
        )
    with open(path, "rb", buffering=0) as file:  # without a buffer, which takes 2 % for small files
        data = file.read(status.st_size)
        while len(data) < status.st_size and (more := file.read(status.st_size - len(data))):
            data += more
    return data


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_base64(source: Any) -> bool:
    """Whether ``source`` is a JPEG, PNG, GIF, WebP or TIFF file in base64 without ``data:``."""
    return isinstance(source, str) and _BASE64.fullmatch(source) is not None


def _from_base64(text: str) -> bytes:
    """The bytes of ``data:image/png;base64,...``, or of what follows the comma alone."""
    head, comma, body = text.partition(",")
    try:
        if is_base64(text):
            body = text
        elif not (comma and head.lower().endswith(";base64")):
            raise ValueError("it does not begin with data:TYPE;base64,")
        return base64.b64decode("".join(body.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError(
            f"an image as text must be a whole file in base64, got {text[:60]!r}...: {error}"
        ) from error


def name_of(source: Any) -> str:
    """The name of ``source`` in errors."""
    if isinstance(source, str) and source[:5].lower() == "data:":
        return f"(data URL of {len(source)} characters)"
    if is_base64(source):
        return f"(base64 of {len(source)} characters)"
    if isinstance(source, str | os.PathLike):
        text = str(source)
        return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "(Pillow image)")
    if isinstance(source, np.ndarray):
        return f"(array of shape {source.shape})"
    return f"({len(source)} bytes)" if isinstance(source, bytes) else f"({type(source).__name__})"
