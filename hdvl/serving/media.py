"""Images of requests: ``data:`` URLs, and URLs and files where the server allows them."""

import base64
import binascii
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image

from hdvl.images import open_image
from hdvl.serving.errors import APIError, bad_request
from hdvl.serving.fetching import fetch
from hdvl.serving.settings import Settings

_DATA = re.compile(r"data:(?P<type>[\w.+-]*/?[\w.+-]*)(?P<options>(?:;[\w=.+-]+)*),", re.ASCII)
DETAILS = ("auto", "low", "high", "original")


def read_image_part(part: dict[str, Any], settings: Settings) -> Image.Image:
    """The image of a part of a message, of checked size; its pixels are not decoded yet.

    Raises:
        APIError: the part holds no image, or one that the settings do not allow.
    """
    held = part.get("image_url")
    url = held.get("url") if isinstance(held, dict) else held
    detail = held.get("detail") if isinstance(held, dict) else None
    if detail is not None and detail not in DETAILS:
        raise bad_request(
            f"detail must be one of {', '.join(DETAILS)}, got {detail!r:.100}", "messages"
        )
    if not isinstance(url, str) or not url:
        raise bad_request("a part of type image_url must have image_url.url as text", "messages")
    data = _bytes_of(url, settings)
    try:
        return open_image(data, max_pixels=settings.max_image_pixels, name="of the request")
    except (ValueError, OSError) as error:
        raise bad_request(str(error), "messages", "invalid_image") from None


def is_low(part: dict[str, Any]) -> bool:
    """Whether the part asks for an image of low detail."""
    held = part.get("image_url")
    return isinstance(held, dict) and held.get("detail") == "low"


def _bytes_of(url: str, settings: Settings) -> bytes:
    limit = int(settings.max_image_mb * 2**20)
    scheme = url[:8].lower().split(":")[0]
    if scheme == "data":
        return _decoded(url, limit)
    if scheme in ("http", "https"):
        if not settings.allowed_hosts:
            raise bad_request(
                "images are not fetched by this server; send the image as a data: URL, or start the "
                "server with allowed_hosts",
                "messages",
                "url_not_allowed",
            )
        return fetch(
            url, hosts=settings.allowed_hosts, max_bytes=limit, seconds=settings.fetch_seconds
        )
    if scheme == "file":
        return _file(url, settings, limit)
    raise bad_request(
        f"an image must be a data: URL in base64, got {url[:60]!r}", "messages", "url_not_allowed"
    )


def _decoded(url: str, limit: int) -> bytes:
    head = _DATA.match(url[:200])
    if head is None or not head["options"].lower().endswith(";base64"):
        raise bad_request("a data: URL must begin with data:image/TYPE;base64,", "messages")
    kind = head["type"].lower()
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise bad_request(f"a data: URL must hold an image, got the type {kind:.60}", "messages")
    payload = url[head.end() :]
    if len(payload) * 3 // 4 > limit + 2:
        raise _too_large(limit)
    try:
        data = base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(
            f"a data: URL must hold base64: {error}", "messages", "invalid_image"
        ) from None
    if not data:
        raise bad_request(
            "a data: URL must hold an image, it is empty", "messages", "invalid_image"
        )
    return data


def _file(url: str, settings: Settings, limit: int) -> bytes:
    parts = urlsplit(url)
    path = Path(unquote(parts.path)).resolve()
    roots = [Path(folder).resolve() for folder in settings.allowed_folders]
    inside = any(path.is_relative_to(root) for root in roots)
    if parts.netloc not in ("", "localhost") or not inside or not path.is_file():
        # One answer for all, which does not say what files there are.
        raise bad_request(
            "files are read from the server's allowed_folders alone, and this is none of them; send the "
            "image as a data: URL",
            "messages",
            "url_not_allowed",
        )
    if path.stat().st_size > limit:
        raise _too_large(limit)
    return path.read_bytes()


def _too_large(limit: int) -> APIError:
    return APIError(
        413, f"an image must be at most {limit / 2**20:g} MiB; scale it down", param="messages"
    )
