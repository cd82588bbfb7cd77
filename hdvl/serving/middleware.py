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
OPEN_PATHS = ("/health", "/ready")
"""Paths that need no key."""
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
            if scope["path"] not in OPEN_PATHS and not self._has_key(headers):
                error = APIError(401, "a valid API key is needed: Authorization: Bearer KEY")
                await JSONResponse(error.body, 401)(scope, receive, noted)
            else:
                await self.app(scope, receive, noted)
        finally:
            self._log(scope, request_id, status, time.perf_counter() - start)

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
