"""The queue, the time, keys, hosts, clients that hang up, and stopping: with a real server."""

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hdvl.inference import Pipeline
from hdvl.serving import ServedModel, Settings
from hdvl.serving.endpoints import _Stream
from tests.serving.conftest import data_url, png, question
from tests.serving.live import Live, post, serving, wait_for
from tests.tiny_model import tiny_vlm

pytestmark = pytest.mark.slow
JSON = {"Content-Type": "application/json"}
PATH = "/v1/chat/completions"


def endless(**options: Any) -> dict[str, Any]:
    """A request whose answer takes as long as it may, since the form of its text has no end."""
    return question(max_tokens=1500, guided_regex="[ab]{1400,}", **options)


@pytest.fixture
def pipe() -> Pipeline:
    return Pipeline(model=tiny_vlm(), engine={"max_slots": 2})


@pytest.fixture
def live(pipe: Pipeline) -> Iterator[Live]:
    with serving([ServedModel("tiny", pipe)], Settings(max_waiting=3)) as found:
        yield found


def busy(live: Live) -> int:
    return live.models[0].pipe.engine.counters.slots_in_use


def test_more_than_the_queue_holds_is_refused_and_nothing_is_lost(live: Live) -> None:
    def ask(number: int) -> httpx2.Response:
        body = question(f"{number}?", max_tokens=120, guided_regex="[ab]{110}")
        return httpx2.post(live.url + PATH, json=body, timeout=120)

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, range(20)))
    statuses = [one.status_code for one in found]
    assert set(statuses) == {200, 429} and statuses.count(200) >= 5
    for one in found:
        if one.status_code == 429:
            assert int(one.headers["retry-after"]) >= 1
            assert "too many requests wait" in one.json()["error"]["message"]
        else:
            assert len(one.json()["choices"][0]["message"]["content"]) == 110
    assert httpx2.post(live.url + PATH, json=question(), timeout=60).status_code == 200
    assert live.models[0]._open == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_slot(live: Live, stream: bool) -> None:
    with socket.create_connection(("127.0.0.1", live.port)) as sock:
        sock.sendall(post(PATH, endless(stream=stream)))
        wait_for(lambda: busy(live) == 1)
    wait_for(lambda: busy(live) == 0, 5)
    # A slot is free a moment before its answer is counted.
    wait_for(lambda: live.models[0].pipe.engine.counters.finished.get("cancelled") == 1, 5)
    wait_for(lambda: live.models[0]._open == 0, 5)


def test_answers_that_take_too_long_end_with_504_or_an_event(pipe: Pipeline) -> None:
    with serving([ServedModel("tiny", pipe)], Settings(request_seconds=0.3)) as live:
        said = httpx2.post(live.url + PATH, json=endless(), timeout=60)
        assert said.status_code in (503, 504)
        assert "took longer than 0.3 seconds" in said.json()["error"]["message"]
        streamed = httpx2.post(live.url + PATH, json=endless(stream=True), timeout=60).text
        lines = [line[6:] for line in streamed.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]" and "longer than" in json.loads(lines[-2])["error"]["message"]
        wait_for(lambda: busy(live) == 0)


def test_a_request_that_takes_too_long_to_read(pipe: Pipeline) -> None:
    with serving([ServedModel("tiny", pipe)], Settings(prepare_seconds=1e-6)) as live:
        said = httpx2.post(live.url + PATH, json=question("word " * 9000), timeout=60)
        assert said.status_code == 400
        assert "reading the request took longer than 1e-06" in said.json()["error"]["message"]
        assert httpx2.get(f"{live.url}/health").status_code == 200
        wait_for(lambda: live.models[0]._open == 0)


def test_a_slow_client_is_refused_and_delays_no_other(pipe: Pipeline) -> None:
    with serving([ServedModel("tiny", pipe)], Settings(body_seconds=0.5)) as live:
        whole = post(PATH, question())
        with socket.create_connection(("127.0.0.1", live.port), timeout=10) as sock:
            sock.sendall(whole[: len(whole) // 2])
            assert httpx2.post(live.url + PATH, json=question(), timeout=60).status_code == 200
            assert b" 408 " in sock.recv(65536).split(b"\r\n")[0]
        with socket.create_connection(("127.0.0.1", live.port)) as sock:
            sock.sendall(whole[: len(whole) // 2])  # and hangs up
        assert httpx2.post(live.url + PATH, json=question(), timeout=60).status_code == 200


def test_a_body_that_is_too_large(pipe: Pipeline) -> None:
    with serving([ServedModel("tiny", pipe)], Settings(max_body_mb=0.1)) as live:
        said = httpx2.post(live.url + PATH, content=b" " * 200_000, headers=JSON, timeout=60)
        assert said.status_code == 413 and "at most 0.1 MiB" in said.json()["error"]["message"]

        def parts() -> Iterator[bytes]:  # without a content-length
            for _ in range(200):
                yield b" " * 1000

        assert (
            httpx2.post(live.url + PATH, content=parts(), headers=JSON, timeout=60).status_code
            == 413
        )
        assert httpx2.post(live.url + PATH, json=question(), timeout=60).status_code == 200


def test_keys_and_names(pipe: Pipeline) -> None:
    settings = Settings(api_keys=("secret",), served_hosts=("127.0.0.1",))
    with serving([ServedModel("tiny", pipe)], settings) as live:
        for key in ("", "Bearer", "Bearer wrong", "Basic secret", "Bearer sécret"):
            headers = {"Authorization": key.encode()} if key else {}
            said = httpx2.get(f"{live.url}/v1/models", headers=headers)
            assert said.status_code == 401, key
            assert said.json()["error"]["code"] == "invalid_api_key"
        fine = httpx2.get(f"{live.url}/v1/models", headers={"Authorization": "Bearer secret"})
        assert fine.status_code == 200
        assert httpx2.get(f"{live.url}/metrics").status_code == 401
        for path in ("/health", "/ready"):
            assert httpx2.get(live.url + path).status_code == 200
        other = httpx2.get(f"{live.url}/health", headers={"Host": "evil.example"})
        assert other.status_code == 403 and "evil.example" in other.json()["error"]["message"]


def test_a_model_that_fails_answers_500_and_the_server_lives(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = live.models[0].pipe.engine.scheduler
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_read_part", _fail)
        said = httpx2.post(live.url + PATH, json=question(), timeout=60)
        assert said.status_code == 500 and "model failed" in said.json()["error"]["message"]
        assert "secret" not in said.text
    assert httpx2.post(live.url + PATH, json=question(), timeout=60).status_code == 200
    assert httpx2.get(f"{live.url}/health").status_code == 200


def _fail(most: int) -> int:
    raise RuntimeError("secret of the model")


def test_stopping_completes_what_was_begun_and_refuses_more(pipe: Pipeline) -> None:
    found: list[httpx2.Response] = []
    with serving([ServedModel("tiny", pipe)]) as live:
        body = question(max_tokens=200, guided_regex="[ab]{210}", stream=True)
        thread = threading.Thread(
            target=lambda: found.append(httpx2.post(live.url + PATH, json=body, timeout=60))
        )
        thread.start()
        wait_for(lambda: busy(live) == 1)
        live.server.handle_exit(signal.SIGTERM, None)
        thread.join(60)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{live.url}/health")
    lines = [line[6:] for line in found[0].text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["choices"][0]["finish_reason"] == "length"


def test_metrics_and_the_log_say_what_was_done_and_no_contents(
    live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hdvl.serving.access")
    asked = httpx2.post(
        live.url + PATH, json=question("Secret words?"), headers={"X-Request-ID": "abc-1"}
    )
    assert asked.headers["x-request-id"] == "abc-1"
    wait_for(lambda: bool(caplog.messages))
    line = json.loads(caplog.messages[-1])
    assert line["id"] == "abc-1" and line["status"] == 200 and line["new_tokens"] == 8
    assert "Secret" not in caplog.text and "base64" not in caplog.text
    text = httpx2.get(f"{live.url}/metrics").text
    assert 'hdvl_requests_total{path="/v1/chat/completions",status="200"}' in text
    assert 'hdvl_new_tokens_total{model="tiny"} 8.0' in text
    assert "hdvl_first_token_seconds_count 1.0" in text


def test_low_detail_and_the_limit_of_tiles(pipe: Pipeline) -> None:
    body = question(url=data_url(png(180, 90)))
    low = json.loads(json.dumps(body))
    low["messages"][0]["content"][0]["image_url"]["detail"] = "low"

    def tiles(live: Live, asked: dict[str, Any]) -> int:
        said = httpx2.post(live.url + PATH, json=asked, timeout=60).json()
        (image,) = said["usage"]["prompt_tokens_details"]["images"]
        return int(image["tiles"])

    with serving([ServedModel("tiny", pipe)]) as live:
        whole = tiles(live, body)
        assert tiles(live, low) == whole > 2
        assert tiles(live, {**body, "max_tiles": 1}) == 1
        said = httpx2.post(live.url + PATH, json={**body, "max_tiles": 65}, timeout=60)
        assert said.status_code == 400 and "at most 64" in said.json()["error"]["message"]
    with serving([ServedModel("tiny", pipe)], Settings(low_detail_tiles=1)) as live:
        assert tiles(live, low) == 1
        assert tiles(live, body) == whole


def test_a_second_turn_encodes_no_image_again(live: Live) -> None:
    pipe = live.models[0].pipe
    body = question()
    said = httpx2.post(live.url + PATH, json=body, timeout=60).json()["choices"][0]["message"]
    before = pipe.engine.counters
    body["messages"] += [
        {"role": "assistant", "content": said["content"]},
        {"role": "user", "content": "And?"},
    ]
    again = httpx2.post(live.url + PATH, json=body, timeout=60).json()
    after = pipe.engine.counters
    assert after.image_cache_misses == before.image_cache_misses
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_files_of_allowed_folders(pipe: Pipeline, tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a b.png").write_bytes(png())
    (inside / "link.png").symlink_to(outside / "a b.png")
    settings = Settings(allowed_folders=(str(inside),))
    with serving([ServedModel("tiny", pipe)], settings) as live:

        def status(url: str) -> int:
            return httpx2.post(live.url + PATH, json=question(url=url), timeout=60).status_code

        assert status(f"file://{inside}/a%20b.png") == 200
        for path in (f"{inside}/../out/a%20b.png", f"{inside}/link.png", f"{inside}/none.png"):
            assert status(f"file://{path}") == 400
        assert status(f"file://{inside}/%2e%2e/out/a%20b.png") == 400
        assert status(f"file://{inside}") == 400


def test_times_do_not_grow_with_waiting_requests(live: Live) -> None:
    """State is answered at once while the engine works."""
    body = question(max_tokens=300, guided_regex="[ab]{290}")
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(httpx2.post, live.url + PATH, json=body, timeout=120) for _ in "ab"]
        wait_for(lambda: busy(live) == 2)
        start = time.monotonic()
        assert httpx2.get(f"{live.url}/health").status_code == 200
        assert time.monotonic() - start < 2
        assert all(one.result().status_code == 200 for one in asked)


def test_headers_and_bodies_that_come_a_byte_at_a_time(pipe: Pipeline) -> None:
    bounds = Settings(header_seconds=0.6, body_seconds=0.6)
    whole = post(PATH, question())

    def dribble(start: bytes, port: int) -> bytes:
        """What the server answers to a client that sends a byte now and then, until it is cut off."""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(start)
            end, found = time.monotonic() + 10, b""
            sock.settimeout(0.05)
            while time.monotonic() < end:
                try:
                    part = sock.recv(65536)
                    if not part:
                        return found
                    found += part
                    sock.sendall(b"a")
                except TimeoutError:
                    sock.sendall(b"a")
                except OSError:
                    return found
        raise AssertionError("the connection was kept")

    with serving([ServedModel("tiny", pipe)], bounds) as live:
        late = b"the headers must arrive within 0.6 seconds"
        assert late in dribble(b"", live.port) and late in dribble(
            b"POST /v1/chat HTTP/1.1\r\nX: ", live.port
        )
        after = (
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"  # a further request of a connection
        )
        assert late in dribble(after + b"GET /he", live.port)
        assert b" 408 " in dribble(whole[: len(whole) - 200], live.port)
        head = b"Host: localhost\r\nContent-Length: 5000\r\n\r\n"
        assert b" 404 " in dribble(
            b"POST /nothing HTTP/1.1\r\n" + head, live.port
        )  # nobody reads its body
        with socket.create_connection(("127.0.0.1", live.port), timeout=10) as sock:
            assert b" 408 " in sock.recv(100)  # silent ones too
        wait_for(lambda: not live.server.server_state.connections, 5)
        with httpx2.Client(base_url=live.url, timeout=60) as client:
            for _ in range(3):  # one connection, whose requests together take longer
                assert client.post(PATH, json=question(max_tokens=4)).status_code == 200
                time.sleep(0.4)
        with socket.create_connection(("127.0.0.1", live.port), timeout=20) as sock:
            sock.sendall(whole + whole)  # the second is sent ahead
            found = b""
            while found.count(b" 200 OK") < 2:
                part = sock.recv(65536)
                assert part, found
                found += part


def test_a_stream_that_is_not_read_ends() -> None:
    ended, sent = list[bool](), list[str]()

    async def events() -> AsyncIterator[dict[str, str]]:
        for _ in range(3):
            yield {"data": "x"}

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if len(sent) > 1:
            await asyncio.sleep(30)

    async def run() -> None:
        stream = _Stream(events(), send_timeout=0.1, ended=lambda: ended.append(True))
        await stream({"type": "http", "method": "POST"}, receive, send)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert ended == [True] and sent[0] == "http.response.start"


def test_connections_beyond_the_bound_are_refused_and_the_next_is_served(pipe: Pipeline) -> None:
    with serving([ServedModel("tiny", pipe)], Settings(max_connections=3)) as live:
        held = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(3)]
        accepted = live.server.config.http_protocol_class.accepted  # type: ignore[union-attr]
        wait_for(lambda: len(accepted) == 3)
        for _ in range(5):  # those that are refused take no place
            said = live.raw(post(PATH, question()))
            assert said.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1\r\n" in said
            assert b"the most that settings.max_connections allows" in said
        assert len(accepted) == 3
        held.pop().close()
        wait_for(lambda: len(accepted) == 2)
        assert live.raw(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").startswith(
            b"HTTP/1.1 200 "
        )
        for sock in held:
            sock.close()
        wait_for(lambda: not accepted)
        assert httpx2.post(live.url + PATH, json=question(), timeout=60).status_code == 200
