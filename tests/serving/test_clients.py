"""Unmodified clients, and requests as other programs send them, against a real server."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hdvl.inference import Pipeline
from hdvl.serving import ServedModel, Settings
from tests.serving.conftest import data_url, png, question
from tests.serving.live import Live, serving
from tests.tiny_model import tiny_vlm

pytestmark = pytest.mark.slow
openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    models = [ServedModel("tiny", Pipeline(model=tiny_vlm()))]
    models.append(ServedModel("hdvl/other", Pipeline(model=tiny_vlm(seed=1))))
    with serving(models, Settings(api_keys=("key-one", "key-two"))) as found:
        yield found


@pytest.fixture(scope="module")
def client(live: Live) -> Any:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="key-two", max_retries=0, timeout=60)


def test_the_openai_client_asks_and_streams(client: Any, live: Live) -> None:
    asked = question()
    said = client.chat.completions.create(**asked)
    answer = live.models[0].pipe.chat("What?", images=[png()], max_new_tokens=8)
    assert said.choices[0].message.content == answer.text
    assert said.usage.prompt_tokens_details.images[0]["width"] == 90
    assert said._request_id
    pieces = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(one.choices[0].delta.content or "" for one in pieces if one.choices)
    assert text == answer.text
    assert pieces[-1].choices == [] and pieces[-1].usage.completion_tokens == 8
    assert [one.id for one in client.models.list()] == ["tiny", "hdvl/other"]
    assert client.models.retrieve("hdvl/other").id == "hdvl/other"


def test_every_body_has_the_types_of_the_openai_package(client: Any, live: Live) -> None:
    import httpx2
    from openai.types import Completion
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

    headers = {"Authorization": "Bearer key-one"}
    options = {"n": 2, "temperature": 1.0, "seed": 3, "logprobs": True, "top_logprobs": 2}
    url = f"{live.url}/v1/chat/completions"
    said = httpx2.post(url, json=question(**options), headers=headers, timeout=60)
    ChatCompletion.model_validate(said.json(), strict=True)
    streamed = httpx2.post(
        url,
        json=question(**options, stream=True, stream_options={"include_usage": True}),
        headers=headers,
        timeout=60,
    )
    lines = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    for line in lines[:-1]:
        ChatCompletionChunk.model_validate(json.loads(line), strict=True)
    text = client.completions.create(model="tiny", prompt="Hello", max_tokens=4, logprobs=1)
    Completion.model_validate(text.model_dump(), strict=True)


def test_the_openai_client_gets_its_own_errors(client: Any, live: Live) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens must be between") as caught:
        client.chat.completions.create(**question(max_tokens=10**6))
    assert caught.value.param == "max_tokens"
    with pytest.raises(openai.NotFoundError, match="not served"):
        client.chat.completions.create(**question(model="gpt-4o"))
    stranger = openai.OpenAI(base_url=f"{live.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="API key"):
        stranger.models.list()


def test_structured_answers_of_the_openai_client(client: Any) -> None:
    from pydantic import BaseModel, ConfigDict

    class Total(BaseModel):
        # A random model would write spaces for ever.
        model_config = ConfigDict(json_schema_extra={"x-guidance": {"whitespace_flexible": False}})
        paid: bool

    said = client.chat.completions.parse(
        **{**question(), "max_tokens": 60}, response_format=Total, temperature=0
    )
    assert isinstance(said.choices[0].message.parsed, Total)


def test_langchain_asks(live: Live) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="LangChain is not installed")
    chat = langchain.ChatOpenAI(
        model="tiny", base_url=f"{live.url}/v1", api_key="key-one", max_completion_tokens=5
    )
    assert chat.invoke("Hello").content


# The fields that these programs send, with their own defaults (read in their source, November 2026).
RECORDED: dict[str, dict[str, Any]] = {
    "LangChain": {
        "max_tokens": None,
        "max_completion_tokens": 5,
        "stream": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "Total",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {"paid": {"type": "boolean"}},
                    "required": ["paid"],
                    "additionalProperties": False,
                },
            },
        },
    },
    "Open WebUI": {
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_control": {"type": "ephemeral"},
        "chat_id": "c",
        "session_id": "s",
        "features": {"web_search": False},
        "tools": [],
        "user": {"name": "a"},
    },
    "lmms-eval": {"max_tokens": 16, "temperature": 0},
    "VLMEvalKit": {"n": 1, "temperature": 0, "max_tokens": 16, "seed": 1},
}


@pytest.mark.parametrize("program", RECORDED)
def test_requests_of_other_programs(live: Live, program: str) -> None:
    import httpx2

    body = {**question(), **RECORDED[program]}
    if program == "VLMEvalKit":
        body["messages"][0]["content"][0]["image_url"]["detail"] = "low"
    said = httpx2.post(
        f"{live.url}/v1/chat/completions",
        json={name: value for name, value in body.items() if value is not None},
        headers={"Authorization": "Bearer key-one"},
        timeout=60,
    )
    assert said.status_code == 200, said.text
    if program == "Open WebUI":
        lines = [line[6:] for line in said.text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]" and json.loads(lines[-2])["usage"]["prompt_tokens"] > 0
    else:
        (image,) = said.json()["usage"]["prompt_tokens_details"]["images"]
        whole = live.models[0].pipe.processor.tiler.plan(90, 60)
        assert image["tiles"] == whole.count and (image["width"], image["height"]) == (90, 60)


def test_32_requests_at_once_are_answered_as_each_alone(live: Live) -> None:
    import httpx2

    headers = {"Authorization": "Bearer key-one"}
    bodies = [
        question(f"Number {n}?", data_url(png(40 + 9 * (n % 8), 50, grey=n))) for n in range(32)
    ]

    def ask(body: dict[str, Any]) -> str:
        said = httpx2.post(
            f"{live.url}/v1/chat/completions", json=body, headers=headers, timeout=120
        )
        assert said.status_code == 200, said.text
        return str(said.json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, bodies))
    live.models[0].pipe.clear_caches()
    assert [ask(body) for body in bodies[::5]] == together[::5]
    assert len(set(together)) > 8
