"""A real server in a thread of the tests' process, reached through a socket."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hdvl.serving import ServedModel, Settings, create_app
from hdvl.serving.server import DrainingServer, bind


@dataclass(frozen=True)
class Live:
    """A running server."""

    port: int
    server: DrainingServer
    models: Sequence[ServedModel]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def raw(self, data: bytes, *, seconds: float = 10) -> bytes:
        """What the server answers to ``data``, until it closes or ``seconds`` are over."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as sock:
            sock.sendall(data)
            found = b""
            try:
                while part := sock.recv(65536):
                    found += part
                    if _complete(found):
                        break
            except TimeoutError:
                pass
            return found


def _complete(data: bytes) -> bool:
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(lengths) and len(body) >= int(lengths[0].split(b":")[1])


def post(path: str, body: Any, *headers: str) -> bytes:
    """A request as bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *headers,
    ]
    return "\r\n".join([*head, "", ""]).encode() + data


@contextmanager
def serving(models: Sequence[ServedModel], settings: Settings | None = None) -> Iterator[Live]:
    """A server that runs in a thread until the block is left."""
    app = create_app(models, settings)
    listening = bind("127.0.0.1", 0)
    server = DrainingServer(app, drain_seconds=20)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield Live(listening.getsockname()[1], server, models)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
