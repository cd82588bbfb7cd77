"""Bodies of requests: read within bounds of size and time, and decoded from JSON."""

import asyncio
import json
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from hdvl.serving.errors import APIError, bad_request
from hdvl.serving.settings import Settings


async def read_json(request: Request, settings: Settings) -> Any:
    """The value that the body of ``request`` holds.

    Raises:
        APIError: the body is too large or comes too slowly, or is no JSON or not declared as such.
    """
    _check_type(request)
    try:
        data = await asyncio.wait_for(_read(request, settings), settings.body_seconds)
    except TimeoutError:
        raise APIError(
            408, f"the body must arrive within {settings.body_seconds:g} seconds"
        ) from None
    except ClientDisconnect:
        raise bad_request("the client hung up before its request was complete") from None
    try:
        return json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None
    except ValueError as error:
        raise bad_request(f"the body must be JSON: {str(error)[:200]}") from None


def _check_type(request: Request) -> None:
    """Refuse bodies that a web page of another origin may send without asking the server first.

    Browsers ask before they send JSON to another origin, and this server does not allow it. Text and forms
    they send at once, to servers on the loopback address too.
    """
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise APIError(
            415,
            f"the header Content-Type must be application/json, got {given[:60]!r}; web pages of other "
            "origins could otherwise send requests from a browser",
            code="unsupported_media_type",
        )


async def _read(request: Request, settings: Settings) -> bytes:
    limit = int(settings.max_body_mb * 2**20)
    said = request.headers.get("content-length", "0")
    data = bytearray()
    if said.isdigit() and int(said) > limit:
        raise _too_large(settings)
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise _too_large(settings)
    return bytes(data)


def _too_large(settings: Settings) -> APIError:
    return APIError(
        413,
        f"the body must be at most {settings.max_body_mb:g} MiB; send fewer or smaller images",
        code="body_too_large",
    )


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")
