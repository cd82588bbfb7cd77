"""Many questions in batches: the same answers as one by one, in order, within the budget."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from hdvl.inference import Pipeline
from hdvl.inference.batch import answer_fields, answer_questions
from hdvl.inference.progress import AskingProgress
from hdvl.processor import Sample
from hdvl.protocols import Message
from tests.inference.saying import say
from tests.tiny_model import tiny_node, tiny_vlm


@dataclass(frozen=True)
class Asked:
    number: int
    messages: tuple[Message, ...]
    sample: Sample | None


def questions(pipe: Pipeline) -> list[Asked]:
    made = list[Asked]()
    for number in range(7):
        images = (torch.arange(40 * (30 + 20 * number) * 3).reshape(40, -1, 3) % 251).byte().numpy()
        message = Message("user", "What is it?" * (1 + number % 3), (images,) * (number % 2))
        sample = pipe.processor([message], add_generation_prompt=True)
        made.append(Asked(number, (message,), None if number == 3 else sample))
    return made


def test_answers_are_those_of_one_by_one() -> None:
    pipe = Pipeline(model=tiny_vlm())
    asked = questions(pipe)

    def alone(row: Asked, **options: Any) -> str | None:
        if row.sample is None:
            return None
        message = row.messages[0]
        return pipe.chat(message.text, message.images, max_new_tokens=4, **options).text

    for options, ways in (({}, (1, 20)), ({"temperature": 2.0}, (3,))):
        wanted = [alone(row, seed=5 + row.number, **options) for row in asked]
        assert len(set(wanted)) > 3
        for in_flight in ways:
            rows = asked[3:] if in_flight == 20 else asked  # the first of which is bad
            found = list(
                answer_questions(
                    pipe, rows, in_flight=in_flight, seed=5, max_new_tokens=4, **options
                )
            )
            assert [row for row, _ in found] == rows
            texts = [None if answer is None else answer.text for _, answer in found]
            assert texts == wanted[-len(rows) :]


def test_questions_are_read_as_they_are_needed() -> None:
    pipe = Pipeline(model=tiny_vlm())
    read = list[int]()

    def reading() -> Iterator[Asked]:
        for row in questions(pipe):
            read.append(row.number)
            yield row

    answers = answer_questions(pipe, reading(), in_flight=2, max_new_tokens=2)
    next(answers)
    assert len(read) <= 3
    answers.close()
    bad = [Asked(9, (), None)]
    assert list(answer_questions(pipe, bad, in_flight=2)) == [(bad[0], None)]


def test_the_fields_of_an_answer_and_the_progress(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = Pipeline(model=tiny_vlm())
    say(pipe, "<ref>cup</ref><box>(100,250),(500,750)</box><box>(1,2)</box>")
    image = torch.zeros(40, 70, 3, dtype=torch.uint8).numpy()
    answer = pipe.chat("Where?", [image])
    fields = answer_fields(answer)
    assert fields["boxes"] == [{"label": "cup", "box": [7.0, 10.0, 35.0, 30.0], "image": 0}]
    assert fields["malformed_boxes"] == ["<box>(1,2)</box>"]
    assert fields["answer"] == answer.text and fields["numbers"]["tiles"] == 7
    with AskingProgress(9, done=6, hits=lambda: 0.25, interval=0) as progress:
        progress.add(images=1, new_tokens=answer.numbers.new_tokens)
        progress.add(error="row 7 of x.jsonl: no image")
        shown = capsys.readouterr().err
        assert "7/9 rows  " in shown and " images/s  " in shown and " left" in shown
        assert "25% of images known" in shown and "bad row  row 7 of x.jsonl: no image" in shown
        numbers = progress.numbers()
    assert numbers["asked"] == 2 and numbers["bad"] == numbers["images"] == 1
    assert numbers["new_tokens"] == answer.numbers.new_tokens


@pytest.mark.slow
def test_a_question_limits_the_tiles_of_its_images() -> None:
    pipe = Pipeline(model=tiny_vlm())
    image = (torch.arange(200 * 300 * 3).reshape(200, 300, 3) % 251).byte().numpy()
    counts = {}
    for limit in (1, 2, 4, None):
        answer = pipe.chat("What?", image, max_tiles=limit, max_new_tokens=2)
        counts[limit] = len(answer.plans[0].windows)
        (same,) = pipe.generate([answer.history[:1]], max_tiles=limit, max_new_tokens=2)
        assert same.text == answer.text and same.plans == answer.plans
        stream = pipe.stream("What?", image, max_tiles=limit, max_new_tokens=2)
        assert "".join(stream) == answer.text
        assert pipe.request(answer.history[:1], max_tiles=limit).plans == answer.plans
    assert counts[1] == 1 < counts[2] <= 2 <= counts[4] <= 4 < counts[None]
    with pytest.raises(ValueError, match="max_tiles must be a whole number of at least 1, got 0"):
        pipe.chat("What?", image, max_tiles=0)


def test_blank_windows_and_cut_answers_are_counted() -> None:
    node = tiny_node(tiler={"skip_blank": True})
    node["merger"] = {"_target_": "hdvl.mergers.Concat", "_partial_": True}
    pipe = Pipeline(model=tiny_vlm(node))
    image = torch.zeros(64, 96, 3, dtype=torch.uint8).numpy()
    image[:20, :20] = 255
    answer = pipe.chat("What?", image, max_new_tokens=2)
    assert answer.numbers.tiles == 2 and answer.numbers.blank_tiles == 5
    assert answer.finish_reason == "length"
