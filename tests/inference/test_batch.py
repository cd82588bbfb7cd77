"""Many questions in batches: the same answers as one by one, in order, within the budget."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from hdvl.inference import Pipeline
from hdvl.inference.batch import answer_batches, answer_fields
from hdvl.inference.progress import AskingProgress
from hdvl.processor import Sample
from hdvl.protocols import Message
from tests.inference.saying import say
from tests.tiny_model import tiny_vlm


@dataclass(frozen=True)
class Asked:
    messages: tuple[Message, ...]
    sample: Sample | None


def questions(pipe: Pipeline) -> list[Asked]:
    made = list[Asked]()
    for number in range(7):
        images = (torch.arange(40 * (30 + 20 * number) * 3).reshape(40, -1, 3) % 251).byte().numpy()
        message = Message("user", "What is it?" * (1 + number % 3), (images,) * (number % 2))
        sample = pipe.processor([message], add_generation_prompt=True)
        made.append(Asked((message,), None if number == 3 else sample))
    return made


def test_answers_are_those_of_one_by_one() -> None:
    pipe = Pipeline(model=tiny_vlm())
    asked = questions(pipe)
    wanted = [
        None
        if row.sample is None
        else pipe.chat(row.messages[0].text, row.messages[0].images, max_new_tokens=6).text
        for row in asked
    ]
    assert len(set(wanted)) > 3
    sizes = list[int]()
    answer_samples = pipe.answer_samples

    def counted(conversations: Any, samples: Any, **options: Any) -> Any:
        sizes.append(sum(len(sample.ids) for sample in samples))
        return answer_samples(conversations, samples, **options)

    pipe.answer_samples = counted  # type: ignore[method-assign]
    longest = max(len(row.sample.ids) for row in asked if row.sample is not None)
    for batch_size, tokens in ((1, 1), (3, 10**6), (7, 2 * longest)):
        sizes.clear()
        found = list(
            answer_batches(
                pipe, asked, batch_size=batch_size, batch_tokens=tokens, max_new_tokens=6
            )
        )
        assert [row for row, _ in found] == asked
        assert [None if answer is None else answer.text for _, answer in found] == wanted
        assert max(sizes) <= max(tokens, longest)
    assert 1 < len(sizes) < 6
    with pytest.raises(ValueError, match="batch_size and batch_tokens must be at least 1, got 0"):
        list(answer_batches(pipe, asked, batch_size=0, batch_tokens=1))


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
        progress.add(answer)
        progress.add(None, "row 7 of x.jsonl: no image")
        shown = capsys.readouterr().err
        assert "7/9 rows  " in shown and " images/s  " in shown and " left" in shown
        assert "25% of images known" in shown and "bad row  row 7 of x.jsonl: no image" in shown
        numbers = progress.numbers()
    assert numbers["asked"] == 2 and numbers["bad"] == numbers["images"] == 1
    assert numbers["new_tokens"] == answer.numbers.new_tokens
