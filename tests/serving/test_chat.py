"""Answers of the server are those of the pipeline, whole and as a stream."""

import json
from typing import Any

import pytest

from hdvl.inference import Pipeline
from hdvl.protocols import Message
from tests.serving.conftest import png, question

PATH = "/v1/chat/completions"


def chunks(client: Any, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, which ends with [DONE]."""
    with client.stream("POST", PATH, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_answer_is_that_of_the_pipeline(client: Any, pipe: Pipeline) -> None:
    said = client.post(PATH, json=question()).json()
    answer = pipe.chat("What?", images=[png()], max_new_tokens=8)
    choice = said["choices"][0]
    assert choice["message"]["content"] == answer.text
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == ("length" if answer.numbers.new_tokens == 8 else "stop")
    usage = said["usage"]
    assert usage["prompt_tokens"] == answer.numbers.prompt_tokens
    assert usage["completion_tokens"] == answer.numbers.new_tokens
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    (image,) = usage["prompt_tokens_details"]["images"]
    assert image == {
        "width": 90,
        "height": 60,
        "tiles": answer.numbers.tiles,
        "visual_tokens": answer.numbers.visual_tokens,
    }


def test_a_stream_is_the_whole_answer_in_pieces(client: Any) -> None:
    whole = client.post(PATH, json=question()).json()
    pieces = chunks(client, question(stream_options={"include_usage": True}))
    *parts, counted = pieces
    assert counted["choices"] == []
    for name in ("prompt_tokens", "completion_tokens"):
        assert counted["usage"][name] == whole["usage"][name]
    text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
    assert text == whole["choices"][0]["message"]["content"]
    assert [part["choices"][0]["finish_reason"] for part in parts][-1] == "length"
    assert {part["id"] for part in pieces} == {parts[0]["id"]}


def test_several_answers_are_those_of_their_seeds(client: Any) -> None:
    body = question(n=3, temperature=1.5, seed=7)
    texts = [
        choice["message"]["content"] for choice in client.post(PATH, json=body).json()["choices"]
    ]
    again = [
        client.post(PATH, json=question(temperature=1.5, seed=7 + index)).json()
        for index in range(3)
    ]
    assert texts == [one["choices"][0]["message"]["content"] for one in again]
    assert len(set(texts)) > 1
    streamed = ["", "", ""]
    for part in chunks(client, body):
        for choice in part["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert streamed == texts


def test_logprobs_of_each_token(client: Any) -> None:
    said = client.post(PATH, json=question(logprobs=True, top_logprobs=3)).json()
    found = said["choices"][0]["logprobs"]["content"]
    assert len(found) == said["usage"]["completion_tokens"]
    for token in found:
        values = [top["logprob"] for top in token["top_logprobs"]]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert token["logprob"] == values[0]  # greedy


@pytest.mark.parametrize(
    ("form", "check"),
    [
        ({"type": "json_object"}, lambda value: isinstance(value, dict)),
        (
            {
                "type": "json_schema",
                "json_schema": {
                    "name": "total",
                    "schema": {
                        "type": "object",
                        "properties": {"total": {"enum": ["one", "two"]}},
                        "required": ["total"],
                        "additionalProperties": False,
                    },
                },
            },
            lambda value: value["total"] in ("one", "two"),
        ),
    ],
    ids=["object", "schema"],
)
def test_answers_in_json(client: Any, form: dict[str, Any], check: Any) -> None:
    pytest.importorskip("llguidance")
    said = client.post(
        PATH, json=question(response_format=form, max_tokens=200, temperature=0)
    ).json()
    if said["choices"][0]["finish_reason"] == "stop":  # a random model may fill any object
        assert check(json.loads(said["choices"][0]["message"]["content"]))
    else:
        assert form["type"] == "json_object"


def test_text_alone_and_turns(client: Any, pipe: Pipeline) -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
    ]
    said = client.post(
        PATH, json={"messages": turns, "max_tokens": 6, "cache_control": {"x": 1}}
    ).json()
    history = [{**turns[0], "role": "system"}, *turns[1:3]]
    expected = pipe.chat("What?", history=history, max_new_tokens=6).text
    assert said["choices"][0]["message"]["content"] == expected


def test_the_answer_goes_on_with_the_final_message(client: Any, pipe: Pipeline) -> None:
    body = question(continue_final_message=True)
    body["messages"].append({"role": "assistant", "content": "It is"})
    said = client.post(PATH, json=body).json()
    turns = [Message("user", "What?", (png(),)), Message("assistant", "It is")]
    generation = pipe.submit(turns, continue_final_message=True, max_new_tokens=8).wait()
    assert said["choices"][0]["message"]["content"] == generation.text


def test_the_text_of_completions(client: Any) -> None:
    said = client.post(
        "/v1/completions", json={"prompt": ["Hello", "Well"], "max_tokens": 5, "logprobs": 2}
    ).json()
    assert [choice["index"] for choice in said["choices"]] == [0, 1]
    alone = client.post("/v1/completions", json={"prompt": "Well", "max_tokens": 5}).json()
    assert alone["choices"][0]["text"] == said["choices"][1]["text"]
    logprobs = said["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == 5


def test_images_with_one_prompt_are_not_confused(client: Any) -> None:
    from tests.serving.conftest import data_url

    bodies = [question(url=data_url(png(grey=grey))) for grey in (0, 255)]
    first = [client.post(PATH, json=body).json()["choices"] for body in bodies]
    second = [client.post(PATH, json=body).json()["choices"] for body in reversed(bodies)]
    assert first == second[::-1]
    assert first[0] != first[1]
