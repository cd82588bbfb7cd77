"""Rows answered by a server: answers equal those of the model in this process, bad rows are reported."""

import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hdvl import infer
from hdvl.backends import Job, OpenAIBackend
from hdvl.backends.base import questions_of
from hdvl.checkpoints import save_folder
from hdvl.command import compose
from hdvl.config import resolve
from hdvl.images import data_url
from hdvl.inference import Pipeline
from hdvl.inference.load import load
from hdvl.messages import as_turn
from hdvl.protocols import Message
from tests.tiny_model import tiny_node, tiny_vlm

pytest.importorskip("openai")


class Server:
    """A server whose answers a test decides: a function of the body and the number of the request."""

    def __init__(self) -> None:
        self.asked = list[dict[str, Any]]()
        self.keys = list[str]()
        self.answer = lambda body, number: (200, said(str(body["seed"]) if "seed" in body else "a"))
        self.headers = dict[str, str]()
        self.lock = threading.Lock()


def said(text: str | None, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **more}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
    } | {"usage": usage}


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            models = [{"id": "m", "object": "model", "created": 0, "owned_by": "x"}]
            self.reply(200, {"object": "list", "data": models})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                number = len(state.asked)
                state.asked.append(body)
                state.keys.append(self.headers["Authorization"])
            self.reply(*state.answer(body, number))

        def reply(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
            for name, value in {**headers, **(state.headers if status != 200 else {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state, f"http://127.0.0.1:{running.server_port}/v1"
    running.shutdown()
    running.server_close()


def write_rows(folder: Path, count: int) -> Path:
    for number in range(count):
        Image.new("RGB", (50 + number, 40), (9 * number, 80, 10)).save(folder / f"{number}.png")
    rows = [{"id": f"r{n}", "image": f"{n}.png", "prompt": f"What {n}?"} for n in range(count)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "answers.jsonl"


def run(outputs: Path, url: str, *words: str) -> list[dict[str, Any]]:
    given = [
        *(f"inputs={outputs.parent / 'rows.jsonl'}", f"outputs={outputs}", "engine=openai"),
        *(f"engine.url={url}", *words),
    ]
    infer.run(resolve(compose(*given, config_name="infer")), given)
    return [json.loads(line) for line in outputs.read_text().splitlines()]


def failure(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": "x", "param": None, "code": None}}


def test_refused_for_now_and_asked_again(
    server: tuple[Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, url = server
    state.headers = {"Retry-After": "0.01"}
    state.answer = lambda body, number: (
        (failure(429, "full") if number % 3 == 0 else failure(503, "busy"))
        if number % 3 < 2
        else (200, said("yes"))
    )
    monkeypatch.setenv("SOME_KEY", "secret")
    outputs = write_rows(tmp_path, 6)
    options = ["generation.temperature=0.5", "generation.top_k=7", "max_tiles=3", "seed=40"]
    rows = run(outputs, url, "engine.key_variable=SOME_KEY", "engine.tries=60", *options)
    assert [row["row"] for row in rows] == list(range(6))
    assert {row["answer"] for row in rows} == {"yes"} and rows[3]["id"] == "r3"
    assert rows[0]["numbers"] == {"prompt_tokens": 5, "new_tokens": 3}
    assert len(state.asked) > 6 and set(state.keys) == {"Bearer secret"}
    body = next(body for body in state.asked if body["seed"] == 42)
    assert body["model"] == "m" and body["temperature"] == 0.5 and body["top_k"] == 7
    assert body["max_tiles"] == 3 and body["max_tokens"] == 256
    image, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What 2?"}
    data = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert data == (tmp_path / "2.png").read_bytes()


def test_bad_rows_are_named_and_asked_again(server: tuple[Server, str], tmp_path: Path) -> None:
    state, url = server
    outputs = write_rows(tmp_path, 5)
    (tmp_path / "1.png").write_text("broken")

    def answer(body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
        text = body["messages"][0]["content"][-1]["text"]
        if text == "What 3?":
            return failure(400, "the prompt is too long")
        return 200, said(
            None if text == "What 4?" else "ok",
            boxes=[{"label": "", "box": [1.234] * 4, "image": 0}],
        )

    state.answer = answer
    with pytest.raises(ValueError, match=r"3 of 5 rows could not be asked"):
        run(outputs, url, "engine.model=m")
    rows = [json.loads(line) for line in outputs.read_text().splitlines()]
    assert [("error" in row) for row in rows] == [False, True, False, True, True]
    assert "1.png is not an image" in rows[1]["error"]
    assert "row 3 (id r3)" in rows[3]["error"] and "the prompt is too long" in rows[3]["error"]
    assert "without text" in rows[4]["error"]
    assert rows[0]["boxes"] == [{"label": "", "box": [1.23] * 4, "image": 0}]
    before = len(state.asked)
    state.answer = lambda body, number: (200, said("now"))
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    rows = run(outputs, url, "engine.model=m", "engine.concurrency=1")
    assert [row["answer"] for row in rows] == ["ok", "now", "ok", "now", "now"]
    assert len(state.asked) == before + 3
    with pytest.raises(
        ValueError, match=r"begun with other settings \(model was 'm' and is 'other'"
    ):
        run(outputs, url, "engine.model=other")


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"refuses the key in OPENAI_API_KEY: no such key"),
        (404, r"does not have engine.model=m, or not this path"),
        (429, r"accepted no request in 2 tries: .*; lower engine.concurrency"),
    ],
)
def test_what_concerns_all_rows_ends_the_run(
    server: tuple[Server, str], tmp_path: Path, status: int, message: str
) -> None:
    state, url = server
    outputs = write_rows(tmp_path, 4)
    state.headers = {"Retry-After": "0.01"}
    state.answer = lambda body, number: (
        failure(status, "no such key") if number else (200, said("a"))
    )
    with pytest.raises((ValueError, ConnectionError), match=message):
        run(outputs, url, "engine.tries=2", "engine.concurrency=1")
    assert not outputs.exists()
    state.answer = lambda body, number: (200, said("b"))
    assert [row["answer"] for row in run(outputs, url)] == ["a", "b", "b", "b"]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    outputs = write_rows(tmp_path, 1)
    with pytest.raises(
        ConnectionError, match=r"engine.url=http://127.0.0.1:9/v1 cannot be reached"
    ):
        run(outputs, "http://127.0.0.1:9/v1", "engine.tries=1", "engine.model=m")
    with pytest.raises(ValueError, match=r"tiler.max_tiles changes the model of engine=local"):
        run(outputs, "http://127.0.0.1:9/v1", "tiler.max_tiles=2")
    with pytest.raises(ValueError, match=r"engine.url must begin with http"):
        OpenAIBackend(url="127.0.0.1:9")
    with pytest.raises(ValueError, match=r"engine.tries must be above 0"):
        OpenAIBackend(url="http://x", tries=0)
    words = ["engine=openai", "prompt=What?"]
    with pytest.raises(ValueError, match=r"a single question is answered by engine=local"):
        infer.run(resolve(compose(*words, config_name="infer")), words)


def test_images_as_urls_and_messages_as_turns() -> None:
    held = io.BytesIO()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(held, "BMP")
    kind, _, data = data_url(held.getvalue()).partition(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(ValueError, match="damaged or truncated"):
        image = io.BytesIO()
        Image.effect_noise((64, 64), 9).save(image, "PNG")
        data_url(image.getvalue()[:-400])
    turn = as_turn(Message("user", "See <image> and <image>!", ("a", "b")), lambda name: name)
    assert [part["type"] for part in turn["content"]] == [
        "text",
        "image_url",
        "text",
        "image_url",
        "text",
    ]
    assert as_turn(Message("system", "Hi"), str) == {"role": "system", "content": "Hi"}
    with pytest.raises(ValueError, match=r"as many <image> as images, got 1 and 2"):
        as_turn(Message("user", "<image>", ("a", "b")), str)


@pytest.fixture(scope="module")
def selecting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that leaves out blank windows, and can read a selection of the others."""
    node = tiny_node(tiler={"skip_blank": True})
    node["merger"] = {"_target_": "hdvl.mergers.Concat", "_partial_": True}
    return save_folder(tiny_vlm(node), tmp_path_factory.mktemp("selecting") / "m", {"model": node})


@pytest.mark.slow
def test_the_same_rows_as_in_this_process(selecting: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from hdvl.serving import ServedModel
    from tests.serving.live import serving

    outputs, pipe = write_rows(tmp_path, 4), load(selecting)
    noise = Image.effect_noise((96, 64), 80).convert("RGB")
    noise.save(tmp_path / "0.png")
    noise.paste((0, 0, 0), (0, 0, 96, 33))
    noise.save(tmp_path / "1.png")
    with outputs.with_name("rows.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"id": "none", "prompt": "Who?"}))
    options = ["generation.max_new_tokens=6", "select=thumbnail", "select_tiles=2"]
    with serving([ServedModel("tiny", pipe)]) as running:
        url = f"{running.url}/v1"
        rows = run(outputs, url, "engine.fields={confidence: true}", *options)
        plain = run(outputs.with_name("plain.jsonl"), url, *options)
    local = tmp_path / "local.jsonl"
    words = [f"inputs={tmp_path / 'rows.jsonl'}", f"outputs={local}", f"checkpoint={selecting}"]
    infer.run(resolve(compose(*words, *options, config_name="infer")), [*words, *options])
    here = [json.loads(line) for line in local.read_text().splitlines()]
    for row in (*rows, *here):
        row["confidence"]["value"] = pytest.approx(row["confidence"]["value"], abs=1e-3)
    assert rows == here
    assert [list(row) for row in rows] == [list(row) for row in here]
    assert [row["numbers"].get("missing_tiles") for row in rows[:2]] == [4, 4]
    assert rows[-1]["numbers"]["tiles"] == 0 and "missing_tiles" not in rows[-1]["numbers"]
    assert [row.pop("confidence") for row in here] and plain == here


@pytest.mark.slow
def test_the_same_boxes_as_in_this_process(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from hdvl.decoding import Guided
    from hdvl.inference.batch import answer_fields
    from hdvl.serving import ServedModel
    from tests.serving.live import serving

    boxes = {"_target_": "hdvl.templates.boxes.Unit"}  # written without special tokens
    pipe = Pipeline(model=tiny_vlm(tiny_node(template={"boxes": boxes})))
    write_rows(tmp_path, 1)
    words = [f"inputs={tmp_path / 'rows.jsonl'}", "engine=openai"]
    cfg: Any = resolve(compose(*words, config_name="infer"))
    job = Job(cfg, words, questions_of(cfg), [0])
    texts = {
        "cat [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.75, 1.0]": (2, 0),
        "a [0.1, 0.2] [0, 0, 0.5, 1]": (1, 1),
        "x": (0, 0),
    }
    with serving([ServedModel("tiny", pipe)]) as running:
        for text, (count, malformed) in texts.items():
            regex = re.escape(text)
            fields = {"guided_regex": regex, "max_tokens": 99, "confidence": True}
            (row,) = OpenAIBackend(url=f"{running.url}/v1", fields=fields).rows(job)
            options: dict[str, Any] = {"guided": Guided(regex=regex), "max_new_tokens": 99}
            answer = pipe.chat("What 0?", tmp_path / "0.png", **options)
            found = answer_fields(answer)
            assert answer.text == text and len(answer.boxes) == count
            assert {key: row.fields[key] for key in found} == found
            assert len(row.fields.get("malformed_boxes", ())) == malformed
