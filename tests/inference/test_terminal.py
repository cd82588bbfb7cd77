"""The conversation in the terminal: turns, images, commands, and mistakes that do not end it."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdvl.inference import Pipeline
from hdvl.inference.terminal import TerminalChat
from tests.inference.saying import say
from tests.tiny_model import tiny_vlm


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(model=tiny_vlm())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "an image.png")
    return tmp_path / "an image.png"


def reader(*lines: str | type[BaseException]) -> Callable[[], str]:
    left = iter(lines)

    def read() -> str:
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def chat(
    pipe: Pipeline, *lines: str | type[BaseException], max_new_tokens: int = 4
) -> tuple[TerminalChat, str, str]:
    out, notes = io.StringIO(), io.StringIO()
    session = TerminalChat(
        pipe,
        write=out.write,
        note=lambda line: notes.write(f"{line}\n"),
        generation={"max_new_tokens": max_new_tokens},
    )
    session.run(reader(*lines))
    return session, out.getvalue(), notes.getvalue()


def test_turns_are_those_of_the_pipeline(pipe: Pipeline, image: Path) -> None:
    session, out, notes = chat(pipe, f"/image '{image}'", "What is it?", "", "And why?")
    first = pipe.chat("What is it?", [image], max_new_tokens=4)
    second = pipe.chat("And why?", history=first.history, max_new_tokens=4)
    assert out == f"{first.text}\n{second.text}\n"
    assert session.history == second.history and session.images == []
    assert "image  1: 70x40 px, 7 tiles of 32 px (2 x 3 + thumbnail), " in notes
    assert notes.count("numbers  7 tiles, ") == 2


def test_boxes_are_listed_and_drawn_and_the_conversation_is_saved(
    image: Path, tmp_path: Path
) -> None:
    pipe = Pipeline(model=tiny_vlm())
    text = "<ref>杯</ref><box>(100,250),(500,750)</box>"
    say(pipe, text)
    lines = [f"/image '{image}'", "Where?", "/boxes", f"/boxes {tmp_path}/drawn.png"]
    lines += [f"/save {tmp_path}/chat.json", "/clear"]
    session, out, notes = chat(pipe, *lines, max_new_tokens=99)
    assert out == text + "\n"
    assert notes.count("box      image 1: 杯 (7, 10, 35, 30)") == 3
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.width >= 70
    assert json.loads((tmp_path / "chat.json").read_text(encoding="utf-8")) == [
        {"role": "user", "content": "Where?", "images": [str(image)]},
        {"role": "assistant", "content": text},
    ]
    assert notes.endswith("a new conversation\n")
    assert session.history == () and session.answer is None


def test_mistakes_do_not_end_it(pipe: Pipeline, image: Path) -> None:
    wanted = {
        "/imag x": "/imag is no command, /help lists them",
        "/image": "/image needs a file, such as",
        "/image nowhere.png": "nowhere.png",
        f"/image {__file__}": "is not an image",
        '/image "open': "No closing quotation",
        "/boxes": "/boxes needs an answer",
        "/save": "/save needs one file",
        "/save /proc/none/x.json": "/proc/none",
        "<image> <image> what?": "image",
    }
    session, out, notes = chat(
        pipe, *wanted, KeyboardInterrupt, "Still there?", "/help", "/quit", "x"
    )
    errors = [line for line in notes.splitlines() if line.startswith("error")]
    assert len(errors) == len(wanted)
    for line, message in zip(errors, wanted.values(), strict=True):
        assert message in line
    assert "(interrupted; /quit leaves)" in notes and "/boxes [FILE]" in notes
    assert out == pipe.chat("Still there?", max_new_tokens=4).text + "\n"
    assert len(session.history) == 2


def test_images_wait_for_a_question_that_can_be_asked(pipe: Pipeline, image: Path) -> None:
    session, _, notes = chat(pipe, f"/image '{image}'", "<image><image> what?")
    assert session.images == [image] and session.history == () and "error" in notes
    session, out, _ = chat(pipe, "<image>", " /not a command")
    assert out.count("\n") == 1 and session.history[0].text == "/not a command"


def test_an_interrupted_answer_is_no_turn(pipe: Pipeline) -> None:
    notes = list[str]()

    def write(piece: str) -> None:
        if piece != "\n":
            raise KeyboardInterrupt

    session = TerminalChat(pipe, write=write, note=notes.append, generation={"max_new_tokens": 9})
    session.run(reader("Hello?"))
    assert session.history == () and notes == ["\n(interrupted; /quit leaves)"]
