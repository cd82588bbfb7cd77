"""A small server that answers as an OpenAI-compatible API does."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class FakeJudge:
    """Where it listens, what it was asked, and the words of its replies."""

    say: Callable[[dict[str, Any]], str]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def fake_judge(say: Callable[[dict[str, Any]], str]) -> Iterator[FakeJudge]:
    """A server whose reply to a body is ``say(body)``; an exception of ``say`` is an error 400."""
    judge = FakeJudge(say)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.asked.append(body)
            judge.keys.append(self.headers["Authorization"])
            try:
                status, text = 200, judge.say(body)
            except ValueError as error:
                status, text = 400, str(error)
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            said: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 1}
            said |= {"model": f"served-{body['model']}", "choices": [choice]}
            raw = json.dumps(said if status == 200 else {"error": {"message": text}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

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
