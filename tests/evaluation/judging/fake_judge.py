"""A small server that answers as an OpenAI-compatible API does."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass(frozen=True)
class Raw:
    """A reply as it is sent, in place of a chat completion."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeJudge:
    """Where it listens, what it was asked, and the words of its replies."""

    say: Callable[[dict[str, Any]], str | Raw]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""


def completion(text: str, model: str) -> Raw:
    """The chat completion with a text."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    said: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 1}
    return Raw(json.dumps({**said, "model": f"served-{model}", "choices": [choice]}).encode())


@contextmanager
def fake_judge(say: Callable[[dict[str, Any]], str | Raw]) -> Iterator[FakeJudge]:
    """A server whose reply to a body is ``say(body)``; an exception of ``say`` is an error 400."""
    judge = FakeJudge(say)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.asked.append(body)
            judge.keys.append(self.headers["Authorization"])
            try:
                said = judge.say(body)
            except ValueError as error:
                said = Raw(json.dumps({"error": {"message": str(error)}}).encode(), 400)
            raw = completion(said, body["model"]) if isinstance(said, str) else said
            self.send_response(raw.status)
            self.send_header("Content-Type", raw.content_type)
            self.send_header("Content-Length", str(len(raw.body)))
            for name, value in raw.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw.body)

        def log_message(self, *given: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
