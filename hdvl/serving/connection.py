"""Connections: how many may be open, and how long a client may take to send a request.

uvicorn bounds the time between two requests, and the size of headers. It does not bound how long a client may
take to send a request, so clients that send a byte now and then could keep any number of connections. Its own
bound (``limit_concurrency``) is checked when a request has come, and so leaves idle connections open.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hdvl.serving.settings import Settings

_LINGER_SECONDS = 1.0
"""How long a refused client may take to read why. Closing at once could discard the response."""


def _response(status: bytes, message: str, kind: str, *headers: bytes) -> bytes:
    """A response that ends the connection, as bytes."""
    body = json.dumps({"error": {"message": message, "type": kind}}).encode()
    lines = (
        b"HTTP/1.1 " + status,
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
        *headers,
    )
    return b"\r\n".join((*lines, b"", body))


class BoundedProtocol(H11Protocol):
    """A connection that is refused beyond a number of them, and closed when a request does not come in time.

    Attributes:
        max_connections: the most open connections of the server; further ones get status 503.
        accepted: the open connections that were not refused.
        header_seconds: seconds from the beginning of the connection, or from the first byte of a further
            request, to the end of the headers.
        body_seconds: seconds from there to the end of the body. The endpoints answer with status 408 before;
            a request whose body nobody reads ends with the connection.
    """

    max_connections: int
    accepted: set["BoundedProtocol"]
    header_seconds: float
    body_seconds: float
    _refused: bool = False
    _timer: asyncio.TimerHandle | None = None
    _phase: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.accepted) >= self.max_connections:
            self._refuse()
            return
        self.accepted.add(self)
        self._arm(h11.IDLE)

    def _refuse(self) -> None:
        self._refused = True
        message = (
            f"the server has {self.max_connections} open connections, the most that "
            "settings.max_connections allows; try again later"
        )
        status = b"503 Service Unavailable"
        self.transport.write(_response(status, message, "server_error", b"retry-after: 1"))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._timer is None and self.conn.their_state in (h11.IDLE, h11.DONE):
            self._arm(h11.IDLE)  # a further request on this connection begins
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # a request that was sent ahead may begin now
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.accepted.discard(self)
        super().connection_lost(exc)

    def _look(self) -> None:
        """Set the timer for the next part of the request."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            if self._phase is not h11.SEND_BODY:
                self._arm(h11.SEND_BODY)
        elif state is not h11.IDLE or not self.conn.trailing_data[0]:
            self._disarm()

    def _arm(self, phase: Any) -> None:
        self._disarm()
        # One second more than the limit of the endpoints, whose response explains the error.
        seconds = self.header_seconds if phase is h11.IDLE else self.body_seconds + 1
        self._phase, self._timer = phase, self.loop.call_later(seconds, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._phase = self._timer = None

    def _late(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE:
            message = f"the headers must arrive within {self.header_seconds:g} seconds"
            self.transport.write(_response(b"408 Request Timeout", message, "timeout_error"))
        self.transport.close()


def bounded_protocol(settings: Settings) -> type[BoundedProtocol]:
    """The protocol of one server, with its bounds."""
    bounds: dict[str, Any] = {
        "max_connections": settings.max_connections,
        "accepted": set(),
        "header_seconds": settings.header_seconds,
        "body_seconds": settings.body_seconds,
    }
    return type("BoundedProtocol", (BoundedProtocol,), bounds)
