"""Hostile requests to a real server: each gets a 4xx with a reason, and the next good one is answered."""

import base64
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from PIL import Image

from hdvl.inference import Pipeline
from hdvl.serving import ServedModel, Settings
from tests.serving.conftest import data_url, png, question
from tests.serving.live import Live, post, serving
from tests.tiny_model import tiny_vlm

pytestmark = pytest.mark.slow
PATH = "/v1/chat/completions"
BIG = 4_000_000
"""Most pixels of an image, by the settings of this server."""


class Elsewhere(BaseHTTPRequestHandler):
    """A host that redirects, stalls, lies about its length, and sends too much."""

    def do_GET(self) -> None:
        if self.path == "/image":
            self._send(200, png())
        elif self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path == "/large":
            self._send(200, b"\x00" * 3_000_000)
        elif self.path == "/half":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"\x89PNG")
        elif self.path == "/page":
            self._send(200, b"<html></html>")
        elif self.path in ("/drip", "/dripping-headers"):
            whole = b"HTTP/1.0 200 OK\r\n" + b"\r\n" * (self.path == "/drip")
            for byte in whole + b"X: " + b"a" * 60:
                time.sleep(0.1)  # each well within the time for all
                with suppress(OSError):
                    self.wfile.write(bytes([byte]))
        elif self.path == "/stall":
            self.server.stalled.wait(5)  # type: ignore[attr-defined]
        else:
            self._send(404, b"")

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    server.daemon_threads = True
    server.stalled = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.stalled.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def live(elsewhere: int) -> Iterator[Live]:
    settings = Settings(
        max_image_pixels=BIG,
        max_image_mb=1,
        max_body_mb=4,
        max_characters=100_000,
        fetch_seconds=1,
        body_seconds=2,
        allowed_hosts=(f"127.0.0.1:{elsewhere}", "localhost"),
    )
    with serving([ServedModel("tiny", Pipeline(model=tiny_vlm()))], settings) as found:
        yield found


def image_header(width: int, height: int, colour: int = 2) -> bytes:
    """A PNG of this size without pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)), (b"IDAT", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def encoded(kind: str, size: tuple[int, int] = (64, 48)) -> bytes:
    held = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(held, kind)
    return held.getvalue()


def images() -> Iterator[tuple[str, str]]:
    """(name, URL) of what is no image, or one that is too large."""
    for width, height in [
        *((1, 1), (1, 30000), (30000, 1), (30000, 30000), (2001, 2001), (65535, 65535)),
        *((0, 0), (0, 5), (2**31 - 1, 1), (1, 2**31 - 1), (2**31, 2**31), (4096, 4096)),
    ]:
        for colour in (0, 2, 6):
            header = image_header(width, height, colour)
            yield f"header {width}x{height} {colour}", data_url(header)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = encoded(kind)
        for count in (1, 8, 20, len(whole) // 3, len(whole) // 2):
            yield f"{kind} cut to {count}", data_url(whole[:count])
        yield f"{kind} after a byte", data_url(b"\x00" + whole)
    bomb = io.BytesIO()
    Image.new("L", (9000, 9000)).save(bomb, "PNG")
    yield "bomb", data_url(bomb.getvalue())
    yield "too many bytes", data_url(b"\x89PNG\r\n\x1a\n" + b"\x00" * 1_100_000)
    for kind in ("text/html", "image/", "application/pdf", "audio/wav", "video/mp4", "text/plain"):
        yield f"type {kind}", data_url(b"<svg/>" if kind == "image/" else png(), kind)
    for text in (
        "%PDF-1.7",
        "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "GIF89a",
        "RIFF",
        "\x00" * 99,
    ):
        yield f"bytes {text[:9]!r}", data_url(text.encode())
    good = base64.b64encode(png()).decode()
    yield from {
        "no comma": "data:image/png;base64" + good,
        "no base64": "data:image/png," + good,
        "cut base64": "data:image/png;base64," + good[:-3],
        "url-safe": "data:image/png;base64," + good.replace("/", "_").replace("+", "-") + "_-",
        "padding inside": "data:image/png;base64," + good[:8] + "==" + good[8:],
        "percent": "data:image/png;base64," + good.replace("=", "%3D") + "%",
        "letters": "data:image/png;base64," + "é" * 40,
        "nothing": "data:image/png;base64,",
        "spaces": "data:image/png;base64,    ",
        "long head": "data:" + "x" * 100_000,
        "many options": "data:image/png" + ";a=b" * 10_000 + ";base64," + good,
    }.items()


FORBIDDEN = [
    *("http://127.0.0.1/", "http://127.0.0.1:22/", "http://localhost:8000/", "http://[::1]/"),
    *(
        "http://[::ffff:127.0.0.1]/",
        "http://[::]/",
        "http://0.0.0.0/",
        "http://0/",
        "http://127.1/",
    ),
    *(
        "http://2130706433/",
        "http://0x7f000001/",
        "http://017700000001/",
        "http://127.0.0.1.nip.io/",
    ),
    *("http://169.254.169.254/latest/meta-data/", "http://metadata.google.internal/"),
    *("http://10.0.0.1/", "http://192.168.0.1/", "http://172.16.0.1/", "http://100.64.0.1/"),
    *(
        "http://user:pw@example.com/",
        "http://example.com@127.0.0.1/",
        "http://127.0.0.1#@example.com/",
    ),
    *("https://example.com/a.png", "HTTP://EXAMPLE.COM/", "http:///etc/passwd", "http://"),
    *("http://example.com:99999/", "http://exa mple.com/", "http://ex\nample.com/", "http://[bad/"),
    *(
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "gopher://x/",
    ),
    *("dict://127.0.0.1:11211/", "jar:http://x!/", "javascript:alert(1)", "blob:http://x/1"),
    *(
        "/etc/passwd",
        "../../etc/passwd",
        "\\\\host\\share",
        "C:\\a.png",
        "~/.ssh/id_rsa",
        "//host/a",
    ),
    *("file:///proc/self/environ", "file:///dev/zero", "FILE:///etc/passwd", "localhost/a.png"),
]

JUNK: list[Any] = [None, True, 3, -1, 2.5, "x", "", [], {}, [[]], [{}], {"a": []}, "9" * 5000]
FIELDS = ("messages", "max_tokens", "n", "stop", "response_format", "logit_bias", "stream_options")
HARMLESS = {
    *(("max_tokens", "None"), ("max_tokens", "3"), ("n", "None"), ("n", "3"), ("stop", "None")),
    *(("stop", "'x'"), ("stop", "[]"), ("response_format", "None"), ("logit_bias", "None")),
    *(("logit_bias", "{}"), ("stream_options", "None"), ("stream_options", "{}")),
    *(("stream_options", "{'a': []}"), ("stop", repr("9" * 5000))),
}
"""Fields and values of JUNK that are allowed."""


def bodies() -> Iterator[tuple[str, bytes]]:
    """(name, body) of requests that are none."""
    for field in FIELDS:
        for value in JUNK:
            if (field, repr(value)) not in HARMLESS:
                yield (
                    f"{field}={str(value)[:20]!r}",
                    json.dumps(question(**{field: value})).encode(),
                )
    for content in (*JUNK[:5], [None], [[]], [{"type": []}], [{"type": "text"}], [{"text": "x"}]):
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
        yield f"content={content!r}", json.dumps(body).encode()
    for role in ("", "tool", "function", "USER", None, 3, [], "x" * 10_000):
        body = {"messages": [{"role": role, "content": "x"}], "max_tokens": 1}
        yield f"role={str(role)[:9]!r}", json.dumps(body).encode()
    for part in ("input_audio", "video_url", "file", "tool_use", "image_file", "refusal"):
        body = {"messages": [{"role": "user", "content": [{"type": part, part: {"data": "x"}}]}]}
        yield f"part {part}", json.dumps(body).encode()
    for held in (
        None,
        3,
        [],
        {},
        {"url": None},
        {"url": 3},
        {"url": []},
        {"url": "x", "detail": 3},
    ):
        content = [{"type": "image_url", "image_url": held}]
        body = {"messages": [{"role": "user", "content": content}]}
        yield f"image_url={held!r}", json.dumps(body).encode()
    for name, text in {
        "open list": b"[" * 200_000,
        "open objects": b'{"a":' * 100_000,
        "deep messages": b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
        "NaN": b'{"messages": [], "temperature": NaN}',
        "huge number": b'{"messages": [{"role": "user", "content": "x"}], "seed": 1'
        + b"0" * 6000
        + b"}",
        "infinite": b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        "half a letter": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        "bad bytes": b'{"messages": "\xff\xfe"}',
        "a nought": b"\x00" * 100,
        "empty": b"",
        "text": b"hello",
        "two values": b"{} {}",
        "form": b"a=b&c=d",
        "xml": b"<?xml version='1.0'?><a/>",
    }.items():
        yield name, text
    for text in (
        "word " * 10_000,
        "x" * 99_000,
        "<|im_start|>" * 5,
        "<img></img>" * 900,
        "é" * 200_000,
    ):
        yield f"text {text[:12]!r}", json.dumps(question(text)).encode()
    for schema in ({"type": "nonsense"}, {"$ref": "#/x"}, {"type": "object", "properties": 3}):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        yield f"schema {schema}", json.dumps(question(response_format=form)).encode()
    for regex in ("(", "[z-a]", "a{99999999}", "*"):
        yield f"regex {regex}", json.dumps(question(guided_regex=regex)).encode()


@pytest.mark.filterwarnings("default:Corrupt EXIF data")  # what Pillow says of TIFF files cut short
def test_more_than_300_hostile_requests(live: Live, elsewhere: int) -> None:
    asked = [
        (PATH, f"image {name}", json.dumps(question(url=url)).encode()) for name, url in images()
    ]
    asked += [(PATH, f"URL {url}", json.dumps(question(url=url)).encode()) for url in FORBIDDEN]
    asked += [(PATH, name, body) for name, body in bodies()]
    for url in FORBIDDEN:
        asked.append(("/v1/tiles", f"tiles {url}", json.dumps({"images": [url]}).encode()))
    for prompt in (*JUNK[:5], "", [], {}, [[]], ["", "x"], [3], "x " * 60_000):
        body = json.dumps({"prompt": prompt, "max_tokens": 1}).encode()
        asked.append(("/v1/completions", f"prompt {str(prompt)[:9]!r}", body))
    assert len(asked) > 300
    wrong = []
    with httpx2.Client(base_url=live.url, timeout=30) as client:
        for number, (path, name, body) in enumerate(asked):
            try:
                said = client.post(path, content=body, headers={"Content-Type": "application/json"})
            except httpx2.TransportError as error:
                wrong.append(f"{name}: {error!r}")
                continue
            if not 400 <= said.status_code < 500 or not said.json()["error"]["message"]:
                wrong.append(f"{name}: {said.status_code} {said.text[:150]}")
            if number % 20 == 0:
                assert client.post(PATH, json=question()).status_code == 200, name
        assert client.post(PATH, json=question()).status_code == 200
    assert not wrong, "\n".join(wrong)


def test_misbehaving_hosts(live: Live, elsewhere: int) -> None:
    base = f"http://127.0.0.1:{elsewhere}"
    reasons = {
        "/to/http://169.254.169.254/": "are not fetched here",
        "/to/http://[::1]/": "are not fetched here",
        "/to/file:///etc/passwd": "must be http or https",
        "/to/http://localhost/a": "private address",
        "/loop": "redirects more than",
        "/large": "must be at most",
        "/half": "image",
        "/page": "image",
        "/none": "answered with status 404",
        "/stall": "takes too long",
        "/drip": "takes too long",
        "/dripping-headers": "takes too long",
    }
    for path, reason in reasons.items():
        start = time.monotonic()
        said = httpx2.post(live.url + PATH, json=question(url=base + path), timeout=30)
        assert said.status_code == 400 and reason in said.json()["error"]["message"], said.text
        assert time.monotonic() - start < 5, path
    assert httpx2.post(live.url + PATH, json=question(url=f"{base}/image")).status_code == 200
    to = f"{base}/to//image"
    assert httpx2.post(live.url + PATH, json=question(url=to)).status_code in (200, 400)


def test_requests_that_are_no_http(live: Live) -> None:
    whole = post(PATH, question())
    pieces = [
        *(b"", b"\r\n\r\n", b"GET", b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
        *(b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"),
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        *(whole[: len(whole) * part // 7] for part in range(1, 7)),
    ]
    for piece in pieces:
        with socket.create_connection(("127.0.0.1", live.port), timeout=5) as sock:
            sock.sendall(piece)
        assert httpx2.get(f"{live.url}/health").status_code == 200
    assert httpx2.post(live.url + PATH, json=question(), timeout=30).status_code == 200
    assert live.models[0]._open == 0
