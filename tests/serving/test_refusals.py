"""Requests that are not answered get a status, a reason and what to change, and the next one is answered."""

import json
from typing import Any

import pytest

from tests.serving.conftest import data_url, png, question

PATH = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
NESTED = "[" * 100_000

OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens must be between 1 and"),
    ({"max_tokens": 10**9}, "max_tokens must be between 1 and"),
    ({"max_tokens": "8"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"n": 0}, "n must be between 1 and"),
    ({"n": 10_000}, "n must be between 1 and"),
    ({"temperature": -1}, "temperature must be"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p must be"),
    ({"top_p": 2}, "top_p must be"),
    ({"min_p": 7}, "min_p must be"),
    ({"top_k": -5}, "top_k must be"),
    ({"repetition_penalty": 0}, "repetition_penalty must be"),
    ({"seed": 2**70}, "seed must be"),
    ({"seed": 1.5}, "seed"),
    ({"stop": ["a"] * 9}, "stop"),
    ({"stop": [""]}, "stop strings must not be empty"),
    ({"stop": 3}, "stop"),
    ({"logit_bias": {"x": 1}}, "keys of logit_bias must be ids"),
    ({"logit_bias": {"9999999": 1}}, "ids of logit_bias must be below"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"top_logprobs": 3}, "top_logprobs needs logprobs=true"),
    ({"logprobs": True, "top_logprobs": 99}, "logprobs must be at most 20"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "must have json_schema.schema"),
    ({"response_format": "json"}, "response_format"),
    ({"tools": [{"type": "function"}]}, "tools are not supported; leave tools out"),
    ({"functions": [{}]}, "functions are not supported"),
    ({"modalities": ["text", "audio"]}, "answers in audio are not supported"),
    ({"audio": {"voice": "x"}}, "answers in audio"),
    ({"stream": "yes"}, "stream"),
    ({"max_tiles": 0}, "max_tiles must be at least 1"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": ["hello"]}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "role must be one of"),
    ({"messages": [{"role": "user"}]}, "content must be text or a list of parts"),
    ({"messages": [{"role": "user", "content": 3}]}, "content must be text or a list of parts"),
    ({"messages": [{"role": "user", "content": [3]}]}, "must be of type text"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "must be of type text"),
    ({"messages": [{"role": "user", "content": "a <image> b"}]}, "must not hold <image>"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "must end with the user's"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "valid Unicode"),
    ({"messages": [{"role": "user", "content": "long " * 5000}]}, "must fit the context"),
    ({"continue_final_message": True}, "must end with the user's, or with the assistant's"),
]
URLS = [
    ("", "image_url.url as text"),
    ("hello", "must be a data: URL"),
    ("data:", "must begin with data:image"),
    ("data:image/png,abc", "must begin with data:image"),
    ("data:image/png;base64,", "it is empty"),
    ("data:image/png;base64,!!!!", "must hold base64"),
    ("data:image/png;base64,abc", "must hold base64"),
    (data_url(b"hello"), "image"),
    (data_url(png()[:40]), "image"),
    (data_url(png(), "text/html"), "must hold an image, got the type text/html"),
    (data_url(b"\x00" * 1000), "image"),
    ("/etc/passwd", "must be a data: URL"),
    ("file:///etc/passwd", "allowed_folders alone"),
    ("file:///etc/../etc/passwd", "allowed_folders alone"),
    ("file://host/etc/passwd", "allowed_folders alone"),
    ("ftp://example.com/a.png", "must be a data: URL"),
    ("gopher://127.0.0.1/", "must be a data: URL"),
    ("javascript:alert(1)", "must be a data: URL"),
    *(
        (url, "images are not fetched by this server")
        for url in (
            "http://127.0.0.1/a.png",
            "http://localhost:22/",
            "http://[::1]/",
            "http://169.254.169.254/latest/meta-data",
            "http://0.0.0.0/",
            "http://2130706433/",
            "http://0x7f.1/",
            "https://example.com/a.png",
            "HTTP://EXAMPLE.COM",
            "http://user:secret@example.com/",
        )
    ),
]
BODIES = [
    (b"", "must be JSON"),
    (b"{", "must be JSON"),
    (b"[]", "must be a JSON object"),
    (b"null", "must be a JSON object"),
    (b'{"messages": NaN}', "NaN is no number"),
    (b"\xff\xfe", "must be JSON"),
    (NESTED.encode(), "nested too deeply|must be JSON"),
]


def refusal(response: Any, status: int = 400) -> str:
    """The reason of a refused request, of the form that clients expect."""
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


@pytest.fixture(autouse=True)
def still_answers(client: Any) -> Any:
    yield
    assert client.post(
        PATH, json={"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    ).is_success


@pytest.mark.slow
def test_options_out_of_range(client: Any) -> None:
    for change, reason in OPTIONS:
        body = json.dumps({**question(), **change})
        assert reason in refusal(client.post(PATH, content=body, headers=JSON)), change


def test_images_that_are_none_or_are_not_fetched(client: Any) -> None:
    for url, reason in URLS:
        body = question()
        body["messages"][0]["content"][0]["image_url"]["url"] = url
        assert reason in refusal(client.post(PATH, json=body)), url[:80]


def test_bodies_that_are_no_request(client: Any) -> None:
    import re

    for body, reason in BODIES:
        assert re.search(reason, refusal(client.post(PATH, content=body, headers=JSON))), body[:40]


def test_bodies_that_a_page_of_another_origin_may_send(client: Any) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        headers = {"Content-Type": kind, "Origin": "http://elsewhere.example"}
        said = client.post(PATH, content=json.dumps(question()), headers=headers)
        assert "must be application/json" in refusal(said, 415), kind
    kind = "application/json; charset=utf-8"
    said = client.post(PATH, content=json.dumps(question()), headers={"Content-Type": kind})
    assert said.status_code == 200
    asked = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
    said = client.options(PATH, headers=asked)
    assert not said.is_success and "access-control-allow-origin" not in said.headers


def test_headers_of_huge_images(client: Any) -> None:
    import struct
    import zlib

    def header(width: int, height: int) -> bytes:
        """A PNG of this size without pixels."""
        parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")]
        chunks = [
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

    for size in [(30000, 30000), (1, 2**31 - 1), (65535, 65535), (0, 0), (1, 1), (20000, 3)]:
        assert "image" in refusal(client.post(PATH, json=question(url=data_url(header(*size)))))


def test_too_many_images(client: Any) -> None:
    body = question()
    content = body["messages"][0]["content"]
    body["messages"][0]["content"] = content[:1] * 17 + content[1:]
    assert "at most 16 images" in refusal(client.post(PATH, json=body))


def test_unknown_paths_methods_and_models(client: Any) -> None:
    assert "Not Found" in refusal(client.get("/v1/nothing"), 404)
    assert "Method Not Allowed" in refusal(client.get(PATH), 405)
    assert "is not served; it must be one of tiny" in refusal(
        client.post(PATH, json=question(model="x")), 404
    )
