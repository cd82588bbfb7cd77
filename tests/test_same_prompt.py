"""A question with images gives the same ids, whichever way it is asked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hdvl.checkpoints.exporters.jinja import chat_template
from hdvl.config import compose, to_plain
from hdvl.data.questions import PreparedQuestions, open_questions
from hdvl.images import data_url
from hdvl.inference import Pipeline
from hdvl.messages import as_message, as_turn
from hdvl.protocols import Message
from tests.tiny_model import tiny_node, tiny_vlm

PARTS = {
    "an image first": ["a.png", "What?"],
    "two images first": ["a.png", "b.png", "Compare."],
    "an image first and one in the text": ["a.png", "Is it in ", "b.png", "?"],
    "an image last": ["What is in ", "a.png"],
}
TEXTS = {
    "an image first": "What?",
    "two images first": "Compare.",
    "an image last": "What is in <image>",
}
LITERAL = ["<image>\nWhat?", "<image>What?", "Image: <image>\nWhat?"]


@pytest.fixture(scope="module", params=["chatml", "aya_vision", "qwen_vl"])
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    node = to_plain(compose(f"template={request.param}").template)
    return Pipeline(model=tiny_vlm(tiny_node() | {"template": node}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (60, 40), (90 * number, 9, 9)).save(folder / name)
    return folder


def openai_parts(parts: list[str], folder: Path) -> list[dict[str, Any]]:
    """The parts of a message, with the images as URLs."""
    return [
        {"type": "image_url", "image_url": {"url": data_url(folder / part)}}
        if part.endswith(".png")
        else {"type": "text", "text": part}
        for part in parts
    ]


def served_ids(pipe: Pipeline, turns: list[dict[str, Any]]) -> list[int]:
    """The ids that the server makes of a request."""
    pytest.importorskip("fastapi")
    from hdvl.serving import ServedModel
    from hdvl.serving.conversations import read_messages
    from hdvl.serving.settings import Settings

    messages = read_messages(turns, Settings())
    question = ServedModel("tiny", pipe).question(messages, {}, continue_final_message=False)
    return question.ids.tolist()


def row_ids(pipe: Pipeline, folder: Path, **row: Any) -> tuple[list[int], list[int]]:
    """The ids of a row of a file, as the local backend and a server to which it is sent make them."""
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    questions = open_questions(str(path), prompt=None, system=None, image_folder=None)
    prepared = PreparedQuestions(questions, pipe.processor)[0]
    assert prepared.sample is not None, prepared.error
    turns = [as_turn(message, data_url) for message in questions[0]]
    return prepared.sample.ids.tolist(), served_ids(pipe, turns)


def chat_ids(pipe: Pipeline, *question: Any) -> list[int]:
    """The ids of ``chat``, ``stream`` and ``hdvl infer image=...``."""
    ids: list[int] = pipe.request(pipe.conversation(*question)).ids.tolist()
    return ids


@pytest.mark.parametrize("name", PARTS)
def test_parts(pipe: Pipeline, folder: Path, name: str) -> None:
    parts = PARTS[name]
    turn = {"role": "user", "content": openai_parts(parts, folder)}
    ids = pipe.request([turn]).ids.tolist()
    assert served_ids(pipe, [turn]) == ids
    assert row_ids(pipe, folder, messages=[turn]) == (ids, ids)
    images = [folder / part for part in parts if part.endswith(".png")]
    if name in TEXTS:
        assert chat_ids(pipe, TEXTS[name], images) == ids
    if name.endswith("first"):  # Qwen's list format ends the line after an image behind text
        listed = [{"image": folder / p} if p.endswith(".png") else {"text": p} for p in parts]
        assert chat_ids(pipe, listed) == ids


@pytest.mark.parametrize("text", LITERAL)
def test_marks_in_text_are_taken_as_they_are(pipe: Pipeline, folder: Path, text: str) -> None:
    ids = chat_ids(pipe, text, [folder / "a.png"])
    row = {"messages": [{"role": "user", "content": text}], "image": "a.png"}
    assert row_ids(pipe, folder, **row) == (ids, ids)


@pytest.mark.parametrize("name", PARTS)
def test_exported_chat_templates_place_images_alike(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = tiny_vlm().template
    parts = [
        {"type": "image"} if part.endswith(".png") else {"type": "text", "text": part}
        for part in PARTS[name]
    ]
    written, _ = render_jinja_template(
        conversations=[[{"role": "user", "content": parts}]],
        chat_template=chat_template(template, wraps=False),
        add_generation_prompt=True,
    )
    shown = [{**part, "image": "x"} if part["type"] == "image" else part for part in parts]
    message = as_message({"role": "user", "content": shown}, 1)
    assert written == [template.render([message], add_generation_prompt=True).text]


@pytest.mark.parametrize(
    "message",
    [
        Message("user", "What?", ("a", "b")),
        Message("user", "<image>What?", ("a",)),
        Message("user", "In <image>?", ("a", "b"), leading=1),
        Message("user", "In <image>", ("a",)),
        Message("assistant", "That."),
    ],
)
def test_turns_are_read_back_as_they_were(message: Message) -> None:
    assert as_message(as_turn(message, str), 1) == message
    if message.leading:
        with pytest.raises(ValueError, match="as many <image> as images, got 3 and 2"):
            as_turn(replace(message, leading=2), str)
