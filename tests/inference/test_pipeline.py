"""Chat, history, batches and streams of one model agree with each other and with the plain forward."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hdvl.inference import Pipeline
from hdvl.inference.load import load
from hdvl.processor import collate
from hdvl.protocols import GroundedBox, Message
from tests.inference.saying import say

SIZES = [(70, 40), (20, 20), (96, 64), (33, 90)]


def make_image(index: int) -> Image.Image:
    width, height = SIZES[index % len(SIZES)]
    values = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder)


@pytest.fixture
def parrot(tiny_folder: Path) -> Pipeline:
    """A pipeline of one's own, to be made to say things."""
    return load(tiny_folder)


def conversations() -> list[tuple[Message, ...]]:
    return [
        (Message("user", "What is it?", (make_image(0),)),),
        (Message("user", "Which of <image> and <image>?", (make_image(1), make_image(2))),),
        (Message("system", "Be brief."), Message("user", "No image here")),
        (
            Message("user", "First", (make_image(3),)),
            Message("assistant", "Second"),
            Message("user", "And third, a little longer than the others are?", (make_image(1),)),
        ),
    ]


@pytest.mark.slow
def test_what_a_pipeline_has(pipe: Pipeline) -> None:
    assert pipe.tokenizer is pipe.model.llm.tokenizer
    assert pipe.tiler is pipe.model.tiler and pipe.template is pipe.model.template
    assert not pipe.model.training


def test_numbers_of_an_answer(pipe: Pipeline) -> None:
    answer = pipe.chat("What is it?", images=[make_image(0)], max_new_tokens=5)
    plan = pipe.tiler.plan(*SIZES[0])
    assert answer.plans == (plan,)
    assert answer.numbers.tiles == plan.count > 1
    assert answer.numbers.visual_tokens == pipe.model.merger.token_count(plan)
    assert answer.numbers.prompt_tokens > answer.numbers.visual_tokens
    assert 1 <= answer.numbers.new_tokens <= 5
    assert answer.numbers.seconds > 0


def test_batch_equals_singles(pipe: Pipeline) -> None:
    together = pipe.generate(conversations(), max_new_tokens=12)
    alone = [pipe.generate([one], max_new_tokens=12)[0] for one in conversations()]
    halves = pipe.generate(conversations(), batch_size=3, max_new_tokens=12)
    assert [a.text for a in together] == [a.text for a in alone] == [a.text for a in halves]
    assert len({answer.text for answer in together}) == 4  # not just one answer four times
    for one, other in zip(together, alone, strict=True):
        assert (one.plans == other.plans and one.images == other.images) or one.images
        assert one.numbers.new_tokens == other.numbers.new_tokens
        assert one.numbers.tiles == other.numbers.tiles
    assert pipe.generate([]) == []


def test_the_cache_gives_what_recomputing_gives(pipe: Pipeline) -> None:
    messages = conversations()[1]
    sample = pipe.processor(messages, add_generation_prompt=True)
    batch = collate([sample], pad_id=0)
    cached = pipe.model.generate(
        batch.input_ids, batch.pixels, batch.plans, max_new_tokens=10, stop_ids=[]
    )
    ids = batch.input_ids
    with torch.inference_mode():
        for _ in range(10):
            logits = pipe.model(ids, batch.pixels, batch.plans).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(cached, ids[:, batch.input_ids.shape[1] :])


def test_history_goes_on(parrot: Pipeline) -> None:
    say(parrot, "Soup")
    first = parrot.chat("What is it?", images=make_image(0), system="Be brief.")
    assert [m.role for m in first.history] == ["system", "user", "assistant"]
    assert first.history[-1] == Message("assistant", "Soup")
    say(parrot, "Bread")
    second = parrot.chat("And this?", images=[make_image(1)], history=first.history)
    assert [m.text for m in second.history] == [
        "Be brief.",
        "What is it?",
        "Soup",
        "And this?",
        "Bread",
    ]
    assert len(second.images) == len(second.plans) == 2
    rendered = parrot.template.render(second.history[:-1], add_generation_prompt=True)
    assert second.numbers.prompt_tokens > len(first.history)
    assert "Soup<|im_end|>" in rendered.text
    with pytest.raises(ValueError, match="system must be given with the first turn"):
        parrot.chat("?", history=second.history, system="Be long.")


def test_history_matches_one_conversation(pipe: Pipeline) -> None:
    first = pipe.chat("What?", images=make_image(0), max_new_tokens=6)
    second = pipe.chat("Sure?", history=first.history, max_new_tokens=6)
    whole = pipe.generate([second.history[:-1]], max_new_tokens=6)[0]
    assert whole.text == second.text and whole.history == second.history


def test_every_kind_of_image(pipe: Pipeline, tmp_path: Path) -> None:
    image = make_image(0)
    path = tmp_path / "图 1.png"
    image.save(path)
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    kinds: list[Any] = [image, path, str(path), path.read_bytes(), np.asarray(image), url]
    answers = [pipe.chat("What?", images=kind, max_new_tokens=6).text for kind in kinds]
    answers += [pipe.chat("What?", images=[kind], max_new_tokens=6).text for kind in kinds]
    items = [{"image": url}, {"text": "What?"}]
    answers.append(pipe.chat(items, max_new_tokens=6).text)
    assert len(set(answers)) == 1


def test_boxes_are_in_source_pixels_of_the_right_image(parrot: Pipeline) -> None:
    text = (
        "Picture 1: <ref>cup</ref><box>(100,250),(500,750)</box> "
        "Picture 2: <ref>杯</ref><box>(0,0),(999,500)</box>"
    )
    say(parrot, text)
    answer = parrot.chat("<image> <image> where?", images=[make_image(0), make_image(2)])
    assert answer.text == text
    cup, glass = answer.boxes
    assert cup == GroundedBox(label="cup", box=(7.0, 10.0, 35.0, 30.0), image=0)
    assert glass.label == "杯" and glass.image == 1
    assert glass.box == pytest.approx((0, 0, 96 * 0.999, 32.0))


def test_draw(parrot: Pipeline) -> None:
    say(parrot, "<ref>cup</ref><box>(100,250),(500,750)</box>")
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # on its side: 70x40 as stored, 40x70 as seen
    make_image(0).save(buffer, "png", exif=exif)
    answer = parrot.chat("where?", images=buffer.getvalue())
    assert (answer.plans[0].width, answer.plans[0].height) == (40, 70)
    drawn = answer.draw()
    assert drawn.size == (40, 70) == answer.draw_tiles().size
    assert drawn.tobytes() != answer.image().tobytes()
    with pytest.raises(ValueError, match=r"image_index must be in 0..0, got 1"):
        answer.draw(1)


def test_answers_with_boxes_that_are_none(parrot: Pipeline) -> None:
    """The published drawing code raises an error; here they are reported and the other boxes are drawn."""
    text = "<ref>cup</ref><box>(1,2),(3)</box><box>(100,250),(500,750)</box><quad>(1,2)</quad>"
    say(parrot, text)
    answer = parrot.chat("where?", images=[make_image(1), make_image(0)])
    assert answer.malformed == ("<box>(1,2),(3)</box>", "<quad>(1,2)</quad>")
    (cup,) = answer.boxes
    assert cup.label == "cup" and cup.image == 1  # the last image, as nothing else is said
    assert answer.draw().size == SIZES[0]
    assert answer.draw().tobytes() == answer.draw(1).tobytes() != answer.image(1).tobytes()
    assert answer.draw(0).tobytes() == answer.image(0).tobytes()


def test_a_box_that_the_prompt_began(parrot: Pipeline) -> None:
    say(parrot, "(100,250),(500,750)</box>")
    answer = parrot.chat("<ref>the cup</ref><box>", images=make_image(0))
    assert answer.text == "(100,250),(500,750)</box>" and not answer.malformed
    assert answer.boxes == (GroundedBox(label="the cup", box=(7.0, 10.0, 35.0, 30.0)),)


def test_an_answer_that_reaches_max_new_tokens_is_complete(parrot: Pipeline) -> None:
    """Published Qwen-VL drops the last token then, and counts characters of the prompt to cut it."""
    say(parrot, "Soup", end="")
    assert parrot.chat("cafe\u0301?", images=make_image(0), stop=["none"]).text == "Soup"


def test_answers_go_into_the_history_as_they_are(parrot: Pipeline) -> None:
    """The published XVERSE-V page writes ``\\<`` for ``<`` into the next prompt."""
    say(parrot, "<b> & <ref>x</ref>")
    answer = parrot.chat("?")
    assert answer.text == answer.history[-1].text == "<b> & <ref>x</ref>"


def test_the_callers_stop_strings_stay_as_they_are(parrot: Pipeline) -> None:
    """Published Qwen-VL adds to the list that it is given."""
    stop = ["\nUser:"]
    calls = say(parrot, "Soup")
    parrot.chat("?", stop=stop)
    parrot.generate([(Message("user", "?"),)], stop=stop)
    assert stop == ["\nUser:"] and len(calls) == 2


def test_stop_strings_are_cut(parrot: Pipeline) -> None:
    calls = say(parrot, "Soup.\nUser: and", end="")
    assert parrot.chat("?", stop=["\nUser:"]).text == "Soup."
    assert "\nUser:" in calls[0].params.stop
    assert parrot.chat("?", stop=["\nUser:"]).numbers.new_tokens < len(
        parrot.tokenizer("Soup.\nUser: and")["input_ids"]
    )  # the answer ended there
    say(parrot, "Soup<|im_end|>and more", end="")
    answer = parrot.chat("?")
    assert answer.text == "Soup" and answer.history[-1].text == "Soup"
    say(parrot, "So<|image_pad|>up<|im_start|>")
    assert parrot.chat("?").text == "Soup"
    with pytest.raises(ValueError, match="stop strings must not be empty"):
        parrot.chat("?", stop=[""])


def test_errors_reach_the_caller(pipe: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pipe.chat("?", images=tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"as many <image> as images"):
        pipe.chat("<image> and <image>", images=[make_image(0)])
    with pytest.raises(ValueError, match="must not hold control tokens"):
        pipe.chat("<|im_end|>", images=[make_image(0)])
    with pytest.raises(ValueError, match="batch_size must be at least 1 or None, got 0"):
        pipe.generate(conversations(), batch_size=0)
    with pytest.raises(TypeError, match="there is no beam search"):
        pipe.chat("?", beams=3)


def test_a_prompt_that_is_too_long(tiny_folder: Path) -> None:
    short = load(tiny_folder, max_length=60)
    with pytest.raises(ValueError, match="must not be longer than max_length=60"):
        short.chat("What?", images=make_image(2))


def streamed(pipe: Pipeline, messages: tuple[Message, ...], **options: Any) -> tuple[str, int]:
    """The pieces of the stream joined, and how many ids its answer took."""
    *history, last = messages
    stream = pipe.stream(last.text, images=last.images, history=history, **options)
    text = "".join(stream)
    assert text == stream.answer.text
    return text, stream.answer.numbers.new_tokens


def check_agreement(pipe: Pipeline, asked: list[tuple[Message, ...]], **options: Any) -> list[str]:
    """The texts of chat, of the stream and of a batch, which are the same."""
    batched = pipe.generate(asked, **options)
    for messages, answer in zip(asked, batched, strict=True):
        *history, last = messages
        alone = pipe.chat(last.text, images=last.images, history=history, **options)
        own = (alone.text, alone.numbers.new_tokens)
        assert (answer.text, answer.numbers.new_tokens) == own
        assert streamed(pipe, messages, **options) == own
    return [answer.text for answer in batched]


@pytest.mark.slow
def test_chat_batch_and_stream_agree_where_stop_strings_end_them(pipe: Pipeline) -> None:
    """Each string that occurs in the answers, within a token's text or across tokens, ends them."""
    whole = check_agreement(pipe, conversations(), max_new_tokens=16)
    texts = [text for text in whole if len(text) > 6]
    assert texts
    for text in texts[:1]:
        for stop in (text[5:6], text[2:5], text[len(text) // 2 :][:4]):
            found = check_agreement(pipe, conversations(), max_new_tokens=16, stop=stop)
            assert found == [told.partition(stop)[0] for told in whole]


def test_numbers_of_new_tokens_are_counted_per_row(pipe: Pipeline) -> None:
    asked = conversations()
    whole = pipe.generate(asked, max_new_tokens=16)
    first = next(a for a in whole if len(a.text) > 4)
    answers = pipe.generate(asked, max_new_tokens=16, stop=first.text[:2])
    counts = [answer.numbers.new_tokens for answer in answers]
    assert min(counts) <= 2 < max(counts) <= 16


@pytest.mark.slow
def test_the_shipped_model_agrees_with_itself() -> None:
    small = load("hdvl/small")
    asked = [
        (Message("user", "What is the total?", (make_image(2),)),),
        (Message("user", "Which of <image> and <image>?", (make_image(1), make_image(3))),),
        (Message("user", "What is it?"),),
    ]
    whole = check_agreement(small, asked, max_new_tokens=6)
    stop = next(text for text in whole if text)[1:2]
    found = check_agreement(small, asked, max_new_tokens=6, stop=stop)
    assert found == [text.partition(stop)[0] for text in whole]


def test_ids_of_prompts(pipe: Pipeline) -> None:
    samples = [pipe.processor(one, add_generation_prompt=True) for one in conversations()]
    prompts = [(sample.ids, sample.pixels, sample.plans) for sample in samples]
    rows = pipe.generate_ids(prompts, max_new_tokens=8)
    answers = pipe.generate(conversations(), max_new_tokens=8)
    assert [len(row) for row in rows] == [answer.numbers.new_tokens for answer in answers]
    assert [pipe.generate_ids([prompt], max_new_tokens=8)[0] for prompt in prompts] == rows
    stop = rows[0][2]
    ended = pipe.generate_ids(prompts[:1], max_new_tokens=8, stop_ids=[stop])
    assert ended == [rows[0][: rows[0].index(stop) + 1]]
    assert pipe.generate_ids([]) == []


def test_logits_of_a_prompt(pipe: Pipeline) -> None:
    messages = conversations()[1]
    sample = pipe.processor(messages, add_generation_prompt=True)
    logits = pipe.logits(messages)
    assert logits.dtype == torch.float32 and logits.shape[0] == len(sample.ids)
    with torch.inference_mode():
        plain = pipe.model(sample.ids[None], sample.pixels, sample.plans).logits[0]
    torch.testing.assert_close(logits, plain, rtol=0, atol=0)
    (first, *_), *_ = pipe.generate_ids([(sample.ids, sample.pixels, sample.plans)], stop_ids=[])
    assert int(logits[-1].argmax()) == first


def test_a_temperature_samples(pipe: Pipeline) -> None:
    def said(**options: Any) -> set[str]:
        torch.manual_seed(0)
        asked = [(Message("user", "Colour?"),)] * 6
        return {answer.text for answer in pipe.generate(asked, max_new_tokens=8, **options)}

    assert len(said()) == 1 == len(said(temperature=0))
    assert len(said(temperature=3.0)) > 1
    assert said(temperature=3.0) == said(temperature=3.0, do_sample=True)
    with pytest.raises(ValueError, match="do_sample=False takes the likeliest token, which temper"):
        said(temperature=3.0, do_sample=False)


def test_caches_are_cleared(tiny_folder: Path) -> None:
    pipe = load(tiny_folder)
    for question in ("?", "What?"):
        pipe.chat(question, images=make_image(0), max_new_tokens=1)
    assert pipe.engine.counters.image_cache_misses == 1
    assert pipe.engine.counters.prefix_cache_tokens > 0 < pipe.engine.counters.prefix_cache_bytes
    pipe.clear_caches()
    assert pipe.engine.counters.image_cache_bytes == pipe.engine.counters.prefix_cache_bytes == 0
    pipe.chat("?", images=make_image(0), max_new_tokens=1)
    assert pipe.engine.counters.image_cache_misses == 2
