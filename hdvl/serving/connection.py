"""Connections that are closed when a request does not come in time.

uvicorn bounds the time between two requests, and the size of headers. It does not bound how long a client may
take to send a request, so clients that send a byte now and then could keep any number of connections.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
)


class BoundedProtocol(H11Protocol):
    """A connection that is closed when a request does not come in time.

    Attributes:
        header_seconds: seconds from the beginning of the connection, or from the first byte of a further
            request, to the end of the headers.
        body_seconds: seconds from there to the end of the body. The endpoints answer with status 408 before;
            a request whose body nobody reads ends with the connection.
    """

    header_seconds: float
    body_seconds: float
    _timer: asyncio.TimerHandle | None = None
    _phase: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(h11.IDLE)

    def data_received(self, data: bytes) -> None:
        if self._timer is None and self.conn.their_state in (h11.IDLE, h11.DONE):
            self._arm(h11.IDLE)  # a further request on this connection begins
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # a request that was sent ahead may begin now
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
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
            body = b'{"error": {"message": "%b", "type": "timeout_error"}}' % message.encode()
            self.transport.write(_LATE % (len(body), body))
        self.transport.close()


def bounded_protocol(header_seconds: float, body_seconds: float) -> type[BoundedProtocol]:
    """The protocol with these bounds."""
    bounds = {"header_seconds": header_seconds, "body_seconds": body_seconds}
    return type("BoundedProtocol", (BoundedProtocol,), bounds)
