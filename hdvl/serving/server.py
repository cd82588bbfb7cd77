"""Runs the application until it is stopped, then completes the requests in progress."""

import logging
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus

from hdvl.serving.connection import bounded_protocol

logger = logging.getLogger("hdvl.serving")


class DrainingServer(uvicorn.Server):
    """Refuses new requests once the process was asked to stop, and completes those that were begun.

    Args:
        app: the application.
        drain_seconds: how long completing may take.
    """

    def __init__(self, app: FastAPI, *, drain_seconds: float) -> None:
        # sse-starlette would cut streams off as soon as the process receives a signal to stop.
        AppStatus.enable_automatic_graceful_drain = False
        config = uvicorn.Config(
            app,
            http=bounded_protocol(app.state.endpoints.settings),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
        )
        super().__init__(config)
        self._endpoints = app.state.endpoints

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal. A second interruption ends the process at once."""
        if not self._endpoints.draining:
            logger.info("stopping when the answers that were begun are complete")
        self._endpoints.draining = True
        super().handle_exit(sig, frame)


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address and does not listen yet.

    Raises:
        ValueError: the port is in use or may not be used, or the address does not belong to this machine.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise ValueError(
            f"host={host} port={port} cannot be listened on: {error}; choose another port, or 0 for a free "
            "one"
        ) from error
    return found


def serve(app: FastAPI, listening: socket.socket, *, drain_seconds: float) -> None:
    """Serve on a bound socket until SIGTERM or an interruption."""
    DrainingServer(app, drain_seconds=drain_seconds).run(sockets=[listening])


def log_to_stderr() -> None:
    """Write the access log, as one JSON object a line, and the server's warnings to the standard error."""
    own, access = logging.getLogger("hdvl.serving"), logging.getLogger("hdvl.serving.access")
    for found, layout in ((own, "%(levelname)s %(name)s: %(message)s"), (access, "%(message)s")):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(layout))
        found.handlers[:] = [handler]
        found.setLevel(logging.INFO)
        found.propagate = False
