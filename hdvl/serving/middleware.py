"""What happens to every request: its id, its key, the access log and the metrics."""

import hmac
import json
import logging
import re
import time
import uuid
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hdvl.serving.errors import APIError
from hdvl.serving.metrics import Metrics
from hdvl.serving.settings import Settings

access_log = logging.getLogger("hdvl.serving.access")
OPEN_PATHS = re.compile(r"/|/page(/.*)?|/health|/ready|/favicon\.ico")
"""Paths that need no key: what supervisors ask, and the page, which asks its user for the key."""
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Observed:
    """ASGI middleware: checks the key, sets ``x-request-id``, and logs and counts every response.

    The log has one JSON object a line, without any content of requests and answers.

    Args:
        app: the application.
        settings: has the keys.
        metrics: counts requests.
        paths: known paths; all others are counted as one.
    """

    def __init__(
        self, app: ASGIApp, *, settings: Settings, metrics: Metrics, paths: frozenset[str]
    ) -> None:
        self.app, self.settings, self.metrics, self.paths = app, settings, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["note"] = {}
        status, start = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            error = self._refusal(scope["path"], headers)
            if error is not None:
                response = JSONResponse(error.body, error.status, headers=error.headers)
                await response(scope, receive, noted)
            else:
                await self.app(scope, receive, noted)
        finally:
            self._log(scope, request_id, status, time.perf_counter() - start)

    def _refusal(self, path: str, headers: dict[str, str]) -> APIError | None:
        name = re.sub(r":\d*$", "", headers.get("host", "").lower())
        served = self.settings.served_hosts
        if served and name not in served:
            return APIError(403, f"the name {name:.100} is not served; served_hosts adds names")
        if OPEN_PATHS.fullmatch(path) or self._has_key(headers):
            return None
        return APIError(
            401,
            "a valid API key is needed: Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _has_key(self, headers: dict[str, str]) -> bool:
        keys = self.settings.api_keys
        given = headers.get("authorization", "").removeprefix("Bearer ").encode()
        found = [hmac.compare_digest(given, key.encode()) for key in keys]
        return not keys or any(found)

    def _log(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        path = scope["path"] if scope["path"] in self.paths else "other"
        note: dict[str, Any] = scope["state"]["note"]
        self.metrics.requests.labels(path, str(status)).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        if note.get("first_token_seconds") is not None:
            self.metrics.first_token.observe(note["first_token_seconds"])
        client = scope.get("client") or ("",)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": request_id,
            "client": client[0],
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 3),
            **note,
        }
        access_log.info("%s", json.dumps(line, ensure_ascii=True))
