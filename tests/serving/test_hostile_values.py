"""Hostile values of every field, forms of JSON, and requests that are barely HTTP, to a real server."""

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from hdvl.inference import Pipeline
from hdvl.serving import ServedModel, Settings
from hdvl.serving.schema import ChatCompletionRequest, CompletionRequest, TilesRequest
from tests.serving.conftest import data_url, png, question
from tests.serving.live import Live, post, serving
from tests.tiny_model import tiny_vlm

pytestmark = pytest.mark.slow
PATH = "/v1/chat/completions"
TEXT: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
REQUESTS = {
    PATH: (ChatCompletionRequest, TEXT),
    "/v1/completions": (CompletionRequest, {"prompt": "a", "max_tokens": 2}),
    "/v1/tiles": (TilesRequest, {"images": [data_url(png())]}),
}
OTHER_FIELDS = ("tools", "functions", "audio", "suffix", "echo", "best_of", "user", "metadata")
VALUES = (
    *("true", "-1", "0", "1.5", "1e308", "-1e308", "5e-324", "1e400", "NaN", "Infinity"),
    *("-Infinity", "1" + "0" * 4000, "-1" + "0" * 5000, "9" * 30, '""', '"x"', '"\\u0000"'),
    *('"\\ud800"', f'"{"9" * 3000}"', "[]", "[null]", "[[[]]]", "{}", '{"": null}', '{"a": []}'),
)
"""Values in JSON, or what may look like it."""


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serving([ServedModel("tiny", Pipeline(model=tiny_vlm()))], Settings()) as found:
        yield found


def faults(live: Live, asked: Iterator[tuple[str, str, bytes]]) -> list[str]:
    """What was answered neither with 200 nor with a 4xx and a message; good requests are sent between."""
    wrong = []
    headers = {"Content-Type": "application/json"}
    with httpx2.Client(base_url=live.url, timeout=60) as client:
        for number, (name, path, body) in enumerate(asked):
            try:
                said = client.post(path, content=body, headers=headers)
            except httpx2.TransportError as error:
                wrong.append(f"{name}: {error!r}")
                continue
            if said.status_code != 200:
                reason = said.json()["error"]["message"]
                if not 400 <= said.status_code < 500 or not 0 < len(reason) < 2100:
                    wrong.append(f"{name}: {said.status_code} {reason:.200}")
            if number % 50 == 0:
                assert client.post(PATH, json=question()).status_code == 200, name
        assert client.post(PATH, json=question()).status_code == 200
    return wrong


def test_every_field_with_every_value(live: Live) -> None:
    def asked() -> Iterator[tuple[str, str, bytes]]:
        for path, (kind, body) in REQUESTS.items():
            for name in (*kind.model_fields, *OTHER_FIELDS):
                for value in VALUES:
                    text = json.dumps({**body, name: "@"}).replace('"@"', value)
                    yield f"{path} {name}={value:.20}", path, text.encode()

    assert len(list(asked())) > 1000
    assert not faults(live, asked())


def test_numbers_at_the_edges_are_answered(live: Live) -> None:
    """The sums that sampling makes of them may be infinite, which no answer shows."""
    edges: list[dict[str, Any]] = [
        {"temperature": value} for value in (5e-324, 1e-45, 1e-10, 1e10, 1e300)
    ]
    for value in (1e38, 1e308, -1e308, 1e-308):
        for name in ("frequency_penalty", "presence_penalty"):
            edges.append({name: value, "temperature": 1.0})
        edges.append({"repetition_penalty": abs(value), "temperature": 1.0})
        bias = {str(token): value for token in range(5)}
        edges.append({"logit_bias": bias, "temperature": 1.0, "logprobs": True, "top_logprobs": 20})
    edges.append({"top_p": 5e-324, "min_p": 1.0, "top_k": 10**18, "seed": -(2**63)})
    with httpx2.Client(base_url=live.url, timeout=60) as client:
        for options in edges:
            said = client.post(PATH, json={**TEXT, "max_tokens": 6, **options})
            assert said.status_code == 200, (options, said.text)
            json.loads(said.text, parse_constant=pytest.fail)


def test_keys_of_the_bias(live: Live) -> None:
    for key in ("\u00b2", "\u0663", "1_0", " 5 ", "-1", "+5", "1.0", "", "9" * 4999):
        said = httpx2.post(live.url + PATH, json={**TEXT, "logit_bias": {key: 1}}, timeout=60)
        assert said.status_code == 400 and "must be ids" in said.json()["error"]["message"], key


def test_forms_of_json(live: Live) -> None:
    inner = json.dumps(TEXT)[1:-1]
    deep = [f'{{{inner},"metadata":{"[" * count}{"]" * count}}}' for count in (90, 900, 9000)]
    schema = '{"not":' * 2000 + "{}" + "}" * 2000
    form = f'{{"type":"json_schema","json_schema":{{"name":"x","schema":{schema}}}}}'
    texts = [
        *deep,
        f'{{{inner},"response_format":{form}}}',
        "{" + ",".join([inner] * 9000) + "}",
        f'{{{inner},"{"k" * 500_000}":1}}',
        "{" + inner + "".join(f',"u{number}":1' for number in range(50_000)) + "}",
        *("0." + "9" * 500_000, "9" * 5000, "-", '"\\u12', f"{{{inner},}}", f"{{{inner}/* */}}"),
        json.dumps(json.dumps(TEXT)),
    ]
    bodies = [text.encode() for text in texts]
    whole = f"{{{inner}}}"
    bodies += [whole.encode(code) for code in ("utf-8-sig", "utf-16", "utf-32-be")]
    assert not faults(live, ((repr(body[:40]), PATH, body) for body in bodies))


def raw_requests() -> Iterator[bytes]:
    """Requests that HTTP does not allow, or that most servers refuse."""
    body = json.dumps(TEXT).encode()
    length = b"Content-Length: %d" % len(body)

    def asked(*headers: bytes, host: bytes = b"Host: 127.0.0.1", data: bytes = body) -> bytes:
        kind = b"Content-Type: application/json"
        return b"\r\n".join(
            [b"POST /v1/chat/completions HTTP/1.1", host, kind, *headers, b"", data]
        )

    for value in (b"-1", b"+5", b"0x10", b"1e3", b"", b"9" * 30, b"5 5", b"\xb2", b"5, 6"):
        yield asked(b"Content-Length: " + value)
    yield asked(length, b"Content-Length: 1")
    yield asked(length, b"Transfer-Encoding: chunked")
    for value in (b"gzip", b"chunked, gzip", b"identity", b"xchunked", b"CHUNKED\x00"):
        yield asked(b"Transfer-Encoding: " + value, data=b"0\r\n\r\n")
    chunks = (
        b"zz\r\n",
        b"f" * 30 + b"\r\n",
        b"-5\r\n",
        b"5;" + b"a" * 200_000,
        b"5\r\nabcdefgh\r\n",
    )
    for data in chunks:
        yield asked(b"Transfer-Encoding: chunked", data=data)
    trailers = b"X: y\r\n" * 100_000
    yield asked(b"Transfer-Encoding: chunked", data=b"1\r\n{\r\n0\r\n" + trailers + b"\r\n")
    for header in (b"nonsense", b": y", b"X : y", b"X: \x00", b"X: a\r\n b" * 30_000):
        yield asked(length, header)
    yield asked(length, *(b"X%d: y" % number for number in range(50_000)))
    yield asked(length, b"Content-Encoding: gzip", data=gzip.compress(b" " * 10**7)[: len(body)])
    for host in (b"Host: evil.example", b"Host: 127.0.0.1, evil", b"Host: a@127.0.0.1", b"X: y"):
        yield asked(length, host=host)
    lines = (
        *(
            b"GET / HTTP/2.0",
            b"PRI * HTTP/2.0",
            b"GET /",
            b"\x00GET / HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
        ),
        *(
            b"GET / HTTP/1.1 x",
            b"X" * 70_000 + b" / HTTP/1.1",
            b"GET /" + b"a" * 70_000 + b" HTTP/1.1",
        ),
        *(b"OPTIONS * HTTP/1.1", b"CONNECT 127.0.0.1:22 HTTP/1.1", b"TRACE / HTTP/1.1"),
        *(b"GET http://169.254.169.254/latest HTTP/1.1", b"PUT /v1/models HTTP/1.1"),
        *(b"GET /page/..%2f..%2fserved.py HTTP/1.1", b"GET /page/%2e%2e/served.py HTTP/1.1"),
        *(b"GET /page/%00 HTTP/1.1", b"GET /page/\xff HTTP/1.1", b"GET /v1/models/%ff%fe HTTP/1.1"),
        *(b"GET /.git/config HTTP/1.1", b"GET /docs HTTP/1.1", b"GET ? HTTP/1.1", b"SSH-2.0-x"),
    )
    for line in lines:
        yield line + b"\r\nHost: 127.0.0.1\r\n\r\n"
    yield b"\x16\x03\x01\x00\xf8\x01\x00" + b"\x00" * 240 + b"\r\n\r\n"
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 30
    yield b"*1\r\n$4\r\nPING\r\n\r\n"
    yield b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + asked(length)


def answered(live: Live, request: bytes) -> bytes:
    """What the server answers; nothing where its reset overtakes the response to what it did not read."""
    try:
        return live.raw(request)
    except ConnectionError:
        return b""


def test_requests_that_are_barely_http() -> None:
    settings = Settings(served_hosts=("127.0.0.1",), header_seconds=2, body_seconds=2)
    asked = list(raw_requests())
    assert len(asked) > 50
    with serving([ServedModel("tiny", Pipeline(model=tiny_vlm()))], settings) as running:
        for request in asked:
            said = answered(running, request)
            assert re.match(rb"HTTP/1\.1 (4\d\d|200|307) |$", said), (request[:90], said[:200])
            assert said or len(request) > 60_000, request[:90]
            good = running.raw(post(PATH, TEXT), seconds=60)
            assert good.startswith(b"HTTP/1.1 200 "), request[:90]
