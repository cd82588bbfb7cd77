"""Images and prompts are computed once without changing any answer, and all answers come from one engine."""

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hdvl.inference import Engine, Generation, Guided, Pipeline
from hdvl.inference.image_cache import ImageCache, digest
from hdvl.protocols import Message
from tests.tiny_model import tiny_vlm

SIZES = [(70, 40), (20, 20), (96, 64)]


def make_image(seed: int, size: tuple[int, int] = (70, 40)) -> Image.Image:
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def asked(text: str, *images: Image.Image) -> list[Message]:
    return [Message("user", text, images)]


@pytest.fixture(scope="module")
def vlm() -> Any:
    return tiny_vlm()


@pytest.fixture
def pipe(vlm: Any) -> Pipeline:
    return Pipeline(model=vlm)


@pytest.fixture
def bare(vlm: Any) -> Pipeline:
    """A pipeline that keeps nothing."""
    return Pipeline(
        model=vlm, engine={"image_cache_bytes": 0, "prefix_cache_bytes": 0, "max_slots": 1}
    )


def test_caches_change_no_text(pipe: Pipeline, bare: Pipeline) -> None:
    image = make_image(0)
    for _ in range(2):
        for text in ("What is it?", "What is here?", "Why?"):
            answers = [one.chat(text, image, max_new_tokens=8) for one in (pipe, bare)]
            assert answers[0].text == answers[1].text
    first = [one.chat("And?", image, max_new_tokens=8) for one in (pipe, bare)]
    second = [
        one.chat("So?", make_image(1), history=before.history, max_new_tokens=8)
        for one, before in zip((pipe, bare), first, strict=True)
    ]
    assert second[0].text == second[1].text
    kept, none = pipe.engine.counters, bare.engine.counters
    assert kept.image_cache_misses == 2 and none.image_cache_misses == 9
    assert kept.prefix_cache_hits >= 7 and none.prefix_cache_hits == 0
    assert second[0].numbers.cached_tokens >= first[0].numbers.prompt_tokens
    assert kept.finished["length"] + kept.finished.get("stop", 0) == kept.requests == 8


def test_two_images_with_one_prompt_are_not_confused(pipe: Pipeline, bare: Pipeline) -> None:
    texts = []
    for seed in (0, 1):
        texts.append(
            [one.chat("What?", make_image(seed), max_new_tokens=8).text for one in (pipe, bare)]
        )
    assert texts[0][0] == texts[0][1] and texts[1][0] == texts[1][1]
    assert pipe.engine.counters.image_cache_misses == 2
    tiles = [pipe.tiler(make_image(seed)) for seed in (0, 1)]
    same = digest(tiles[0].pixels, tiles[0].plan)
    assert digest(tiles[1].pixels, tiles[0].plan) != same
    assert digest(tiles[0].pixels, pipe.tiler(make_image(0, (71, 40))).plan) != same
    assert digest(tiles[0].pixels.clone(), tiles[0].plan) == same


def test_answers_to_one_question(pipe: Pipeline) -> None:
    request = pipe.request(asked("What?", make_image(0)), temperature=2.0, seed=5, max_new_tokens=8)
    branches = [one.wait() for one in pipe.engine.submit_branches(request, 4)]
    assert len({one.text for one in branches}) > 1
    assert [one.usage.cached_tokens for one in branches[1:]] == [len(request.ids) - 1] * 3
    alone = pipe.chat("What?", make_image(0), temperature=2.0, seed=6, max_new_tokens=8)
    assert alone.text == branches[1].text
    with pytest.raises(ValueError, match="count of answers must be at least 1, got 0"):
        pipe.engine.submit_branches(request, 0)


def test_usage_and_logprobs(pipe: Pipeline) -> None:
    image = make_image(0)
    generation = pipe.submit(asked("What?", image), max_new_tokens=4, logprobs=3, stop_ids=[])
    deltas = list(generation)
    assert [token for delta in deltas for token in delta.ids] == generation.ids
    assert "".join(delta.text for delta in deltas) == generation.text
    logits = pipe.logits(asked("What?", image))[-1].log_softmax(0)
    first = generation.logprobs[0]
    assert first.token_id == generation.ids[0] and first.logprob == pytest.approx(
        float(logits.max()), abs=1e-4
    )
    assert [place for place, _ in first.top] == logits.topk(3).indices.tolist()
    usage = generation.usage
    plan = pipe.tiler.plan(*image.size)
    (shown,) = usage.images
    assert (shown.width, shown.height, shown.tiles) == (70, 40, plan.count)
    assert shown.visual_tokens == pipe.processor.token_count(plan)
    assert usage.new_tokens == 4 and 0 < (usage.first_token_seconds or 0) <= usage.seconds


def test_the_likelihood_of_options(pipe: Pipeline) -> None:
    messages = asked("What?", make_image(0))
    options = ["cat", "a dog", "cat and dog"]
    found = pipe.likelihood(messages, options)
    ids = pipe.processor(messages, add_generation_prompt=True).ids
    for option, total in zip(options, found, strict=True):
        own = pipe.tokenizer(option, add_special_tokens=False)["input_ids"]
        sample = pipe.processor(messages, add_generation_prompt=True)
        whole = torch.cat([ids, torch.tensor(own)])
        with torch.inference_mode():
            logits = pipe.model(whole[None], sample.pixels, sample.plans).logits[0]
        scores = logits[len(ids) - 1 : -1].log_softmax(-1)
        wanted = sum(float(scores[place, token]) for place, token in enumerate(own))
        assert total == pytest.approx(wanted, abs=1e-3)
    assert pipe.engine.counters.image_cache_misses == 1
    with pytest.raises(ValueError, match="options must not be empty"):
        pipe.likelihood(messages, [""])


def test_an_answer_that_was_begun_is_continued(pipe: Pipeline) -> None:
    whole = pipe.chat("What?", make_image(0), max_new_tokens=8)
    ids = pipe.processor(asked("What?", make_image(0)), add_generation_prompt=True).ids.tolist()
    turns = [*asked("What?", make_image(0)), Message("assistant", "It is")]
    request = pipe.request(turns, continue_final_message=True)
    said = pipe.tokenizer("It is", add_special_tokens=False)["input_ids"]
    assert request.ids.tolist() == ids + said
    assert pipe.submit(turns, continue_final_message=True, max_new_tokens=3).wait().done
    with pytest.raises(ValueError, match="the last message must be an assistant's"):
        pipe.submit(asked("What?"), continue_final_message=True)
    assert whole.history[-1].role == "assistant"


def test_guided_text_has_its_form(pipe: Pipeline) -> None:
    pytest.importorskip("llguidance")
    form = Guided(regex="[0-9]{3} (cats|dogs)")
    generation = pipe.submit(asked("How many?"), guided=form, max_new_tokens=40).wait()
    number, _, word = generation.text.partition(" ")
    assert len(number) == 3 and number.isdigit() and word in ("cats", "dogs")
    assert generation.finish_reason == "stop"
    schema = {"type": "object", "properties": {"n": {"enum": [7, 8]}}, "required": ["n"]}
    schema |= {"additionalProperties": False}
    text = pipe.submit(asked("?"), guided=Guided(json_schema=schema), max_new_tokens=40).wait().text
    assert text in ('{"n": 7}', '{"n": 8}')
    with pytest.raises(ValueError, match="guided must be a form that llguidance reads"):
        pipe.submit(asked("?"), guided=Guided(regex="("))


def test_many_threads_share_one_engine(pipe: Pipeline, bare: Pipeline) -> None:
    wanted = [
        bare.chat("What?", make_image(n % 3, SIZES[n % 3]), max_new_tokens=6).text for n in range(6)
    ]
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        image = make_image(number % 3, SIZES[number % 3])
        found[number] = pipe.chat("What?", image, max_new_tokens=6).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[number] for number in range(6)] == wanted
    assert pipe.engine.counters.slots_in_use == pipe.engine.counters.waiting == 0


def test_an_engine_with_a_thread_of_its_own(pipe: Pipeline) -> None:
    wanted = pipe.chat("What?", make_image(0), max_new_tokens=6).text
    engine = pipe.engine
    engine.start()
    with pytest.raises(ValueError, match="the engine runs already"):
        engine.start()
    try:
        generations = [
            pipe.submit(asked("What?", make_image(0)), max_new_tokens=6) for _ in range(3)
        ]
        assert [one.wait(60).text for one in generations] == [wanted] * 3
        long = pipe.submit(asked("?"), max_new_tokens=200, stop_ids=[])
        long.cancel()
        assert long.wait(60).finish_reason == "cancelled"
    finally:
        engine.stop()


def test_an_idle_engine_waits_for_requests_that_are_being_prepared(vlm: Any) -> None:
    pipe = Pipeline(model=vlm, engine={"gather_seconds": 60})
    engine = pipe.engine
    engine.start()
    try:
        with engine.expecting(2):
            first = pipe.submit(asked("?"), max_new_tokens=4, stop_ids=[])
            time.sleep(0.1)
            assert not first.ids
            second = pipe.submit(asked("Why?"), max_new_tokens=4, stop_ids=[])
            complete = time.perf_counter()
        for one in (first, second):
            assert len(one.wait(60).ids) == 4
            assert (one.decoding.first_token_time or 0) > complete
        with engine.expecting(engine.scheduler.max_slots):  # full slots do not wait either
            many = [
                pipe.submit(asked("?"), max_new_tokens=1, stop_ids=[])
                for _ in range(engine.scheduler.max_slots)
            ]
            assert all(one.wait(60).done for one in many)
    finally:
        engine.stop()
    with pytest.raises(ValueError, match="gather_seconds must be at least 0, got -1"):
        Engine(vlm, gather_seconds=-1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_whose_thread_dies_fails_all_requests(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = True

    class Unforeseen(Exception):
        pass

    changed = pipe.engine._weights.changed

    def check() -> bool:
        if broken:
            raise Unforeseen
        return changed()

    monkeypatch.setattr(pipe.engine._weights, "changed", check)
    pipe.engine.start()
    generation = pipe.submit(asked("?"), max_new_tokens=3)
    while pipe.engine._thread is not None:
        time.sleep(0.01)
    broken = False
    assert generation.wait(60).done
    pipe.engine.stop()


def test_waiting_has_a_timeout(pipe: Pipeline) -> None:
    generation = pipe.submit(asked("?"), max_new_tokens=3)
    with pytest.raises(TimeoutError, match="was not ready after 0 seconds"):
        generation.wait(0)
    assert isinstance(generation.wait(), Generation)


@pytest.mark.slow
def test_other_weights_are_noticed() -> None:
    pipe = Pipeline(model=tiny_vlm())
    image = make_image(0)
    pipe.chat("What?", image, max_new_tokens=2)
    with torch.no_grad():
        next(pipe.model.get_submodule("encoder").parameters()).add_(0.5)
    pipe.chat("What?", image, max_new_tokens=2)
    assert (
        pipe.engine.counters.image_cache_misses == 2 and pipe.engine.counters.prefix_cache_hits == 0
    )
    next(pipe.model.llm.parameters()).data.mul_(1.5)
    pipe.chat("What?", image, max_new_tokens=2)
    assert pipe.engine.counters.image_cache_misses == 3
    pipe.model.llm.load_state_dict(pipe.model.llm.state_dict(), assign=True)
    pipe.model.to(torch.float64).to(torch.float32)
    pipe.chat("What?", image, max_new_tokens=2)
    assert pipe.engine.counters.image_cache_misses == 4
    pipe.chat("What?", image, max_new_tokens=2)
    assert pipe.engine.counters.image_cache_misses == 4


def test_the_oldest_images_go_first(vlm: Any) -> None:
    tiles = [vlm.tiler(make_image(seed)) for seed in range(3)]
    shown = [(digest(one.pixels, one.plan), one.pixels, one.plan) for one in tiles]
    with torch.inference_mode():
        size = vlm.encode_images(tiles[0].pixels, [tiles[0].plan])[0].numel() * 4
        cache = ImageCache(2 * size)
        for one in (shown[0], shown[1], shown[0], shown[2], shown[0], shown[1]):
            (tokens,) = cache.tokens(vlm, [one])
            torch.testing.assert_close(tokens, vlm.encode_images(one[1], [one[2]])[0])
    assert (cache.hits, cache.misses, cache.evictions) == (2, 4, 2)
    assert len(cache) == 2 and cache.bytes == 2 * size
    with pytest.raises(ValueError, match="bytes of the image cache must be at least 0, got -1"):
        ImageCache(-1)


def test_requests_that_do_not_fit_their_images(pipe: Pipeline) -> None:
    request = pipe.request(asked("What?", make_image(0)))
    with pytest.raises(ValueError, match=r"image slots .* the images give .* visual tokens"):
        pipe.generate_ids([(request.ids[:-30], request.pixels, request.plans)])
    with pytest.raises(ValueError, match="max_slots must be at least 1, got 0"):
        Engine(pipe.model, max_slots=0)
    with pytest.raises(ValueError, match="targets must be at least 1"):
        pipe.engine.score(request, 0)
