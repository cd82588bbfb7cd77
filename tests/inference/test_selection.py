"""Windows that are chosen by what a question attends to in the thumbnail."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hdvl.inference import Pipeline, selection
from hdvl.inference.selection import (
    Budget,
    best_windows,
    cut_images,
    encode_prompt,
    keep_windows,
    thumbnail_weights,
    window_scores,
)
from hdvl.llms.attention import eager
from hdvl.protocols import Message
from tests.llms.recurrent import Recurrent
from tests.tiny_model import tiny_node, tiny_vlm

PAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
OTHER = PAGE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
CONCAT = {"_target_": "hdvl.mergers.Concat", "_partial_": True}
BLEND = {"_target_": "hdvl.mergers.OverlapBlend", "_partial_": True}


def pipeline(merger: dict[str, Any] = BLEND, **tiler: Any) -> Pipeline:
    return Pipeline(model=tiny_vlm(tiny_node(tiler=tiler) | {"merger": merger}))


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return pipeline()


def look_at(monkeypatch: pytest.MonkeyPatch, pipe: Pipeline, *corners: str) -> None:
    """Let the question attend to one corner of the thumbnail of each image."""
    rows, cols = pipe.model.bridge.out_grid
    maps = []
    for corner in corners:
        grid = torch.full((rows, cols), 1e-3)
        down = slice(0, rows // 2) if "top" in corner else slice(rows // 2, rows)
        across = slice(0, cols // 3) if "left" in corner else slice(2 * cols // 3, cols)
        grid[down, across] = 1
        maps.append(grid.flatten())

    def weights(engine: Any, sample: Any) -> list[Tensor]:
        assert all(plan.count == 1 for plan in sample.plans)  # the first look is at thumbnails
        return maps

    monkeypatch.setattr(selection, "thumbnail_weights", weights)


@pytest.mark.parametrize("merger", [CONCAT, BLEND])
def test_the_windows_that_the_question_attends_to_are_read(
    merger: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipeline(merger)
    (whole,) = pipe.chat("Where?", PAGE, max_new_tokens=2).plans
    assert len(whole.windows) == 6
    look_at(monkeypatch, pipe, "bottom right")
    answer = pipe.chat("Where?", PAGE, select="thumbnail", select_tiles=1, max_new_tokens=2)
    assert answer.plans == (whole.subset([5]),)
    assert (answer.numbers.tiles, answer.numbers.unselected_tiles) == (2, 5)
    assert answer.numbers.visual_tokens == pipe.model.merger.token_count(whole.subset([5]))
    look_at(monkeypatch, pipe, "top left", "bottom left")
    question = Message("user", "Which?", (PAGE, OTHER))
    options: dict[str, Any] = {"select": "thumbnail", "select_tiles": 1}
    (both,) = pipe.generate([[question]], max_new_tokens=2, **options)
    assert [plan.windows for plan in both.plans] == [whole.windows[:1], whole.windows[3:4]]
    request = pipe.request([question], **options)
    stream = pipe.stream("Which?", [PAGE, OTHER], max_new_tokens=2, **options)
    assert "".join(stream) == both.text and stream.answer.plans == request.plans == both.plans
    assert stream.answer.numbers.unselected_tiles == 10


def test_the_views_are_those_of_the_kept_windows(pipe: Pipeline) -> None:
    messages = (Message("user", "Where?", (PAGE,)),)
    sample = encode_prompt(pipe.processor, messages)
    (tiles,) = cut_images(sample, messages).values()
    kept = keep_windows(tiles, [1, 4])
    assert isinstance(kept.pixels, Tensor) and isinstance(tiles.pixels, Tensor)
    assert torch.equal(kept.pixels, tiles.pixels[[0, 2, 5]])  # the thumbnail is the first view
    assert kept.plan.boxes == tuple(tiles.plan.boxes[index] for index in (0, 2, 5))


def test_weights_are_those_of_the_text_behind_the_image(pipe: Pipeline) -> None:
    messages = (Message("user", "Where is it?", (PAGE,)),)
    sample = encode_prompt(pipe.processor.limited(1), messages)
    (found,) = thumbnail_weights(pipe.engine, sample)
    vlm: Any = pipe.model
    with torch.inference_mode(), eager(vlm.llm.model):
        visual = vlm.encode_images(sample.pixels, sample.plans)
        embeddings = vlm.merge_image_tokens(sample.ids[None], visual)
        layers = vlm.llm.model(inputs_embeds=embeddings, output_attentions=True).attentions
    slots = (sample.ids == vlm.image_token_id).nonzero().flatten()
    mean = torch.stack([layer[0].mean(0)[slots[-1] + 1 :].mean(0) for layer in layers]).mean(0)
    torch.testing.assert_close(found, mean[slots], atol=1e-5, rtol=1e-4)


def test_a_score_is_the_weight_within_a_window(pipe: Pipeline) -> None:
    plan = pipe.tiler.plan(*PAGE.size)
    weights = torch.rand(pipe.model.merger.token_count(plan.subset([])))
    scores = window_scores(pipe.model, plan, weights)
    assert len(scores) == 6 and scores.sum() == pytest.approx(float(weights.sum()), rel=1e-5)
    assert best_windows(scores, 6) == list(range(6))


def test_few_windows_and_other_turns_stay_as_they_are(pipe: Pipeline) -> None:
    plain = pipe.request([Message("user", "Where?", (PAGE,))])
    chosen = pipe.request([Message("user", "Where?", (PAGE,))], select="thumbnail", select_tiles=6)
    assert plain.plans == chosen.plans and torch.equal(plain.ids, chosen.ids)
    text = pipe.request([Message("user", "Hello?")], select="thumbnail")
    assert torch.equal(text.ids, pipe.request([Message("user", "Hello?")]).ids)


def test_an_answer_that_goes_on_is_selected_for_too(pipe: Pipeline) -> None:
    turns = [Message("user", "Where?", (PAGE,)), Message("assistant", "There,")]
    options: dict[str, Any] = {"continue_final_message": True}
    request = pipe.request(turns, select="thumbnail", select_tiles=2, **options)
    assert len(request.plans[0].windows) == 2
    tail = pipe.request(turns, **options).ids[-6:]
    assert torch.equal(request.ids[-6:], tail)


def test_summaries_say_how_many_were_read(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from hdvl.inference.batch import answer_fields
    from hdvl.inference.summary import number_line

    look_at(monkeypatch, pipe, "top right")
    answer = pipe.chat("Where?", PAGE, select="thumbnail", select_tiles=2, max_new_tokens=1)
    assert number_line(answer).startswith("numbers  3 of 7 tiles, ")
    assert answer_fields(answer)["numbers"]["missing_tiles"] == 4
    assert answer.confidence is not None
    assert answer_fields(answer)["confidence"]["value"] == round(answer.confidence.value, 4)


def test_models_that_cannot_select_say_why() -> None:
    look: dict[str, Any] = {"select": "thumbnail", "select_tiles": 2, "max_new_tokens": 1}
    with pytest.raises(
        ValueError, match="needs a thumbnail of each image, the tiler SlidingWindow"
    ):
        pipeline(thumbnail=None).chat("Where?", PAGE, **look)
    rows = {"_target_": "hdvl.mergers.Spatial", "_partial_": True}
    with pytest.raises(ValueError, match="keeps some windows of an image alone, and Spatial needs"):
        pipeline(rows).chat("Where?", PAGE, **look)
    pipe = pipeline()
    pipe.model.llm = Recurrent(tokenizer=pipe.tokenizer)  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"what the question attends to .* Recurrent is no CausalLM"
    ):
        selection.check_selection(pipe.model, [pipe.tiler.plan(*PAGE.size)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "best"}, "select must be thumbnail or null, got 'best'"),
        ({"select_tiles": 0}, "select_tiles must be a whole number of at least 1, got 0"),
        ({"select_tiles": True}, "select_tiles must be a whole number of at least 1, got True"),
    ],
)
def test_values_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**options)


def test_a_server_selects_as_the_pipeline_does(pipe: Pipeline) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from hdvl.images import data_url
    from hdvl.serving import ServedModel, create_app

    image = {"type": "image_url", "image_url": {"url": data_url(PAGE)}}
    turn = {"role": "user", "content": [image, {"type": "text", "text": "Where?"}]}
    body = {"messages": [turn], "max_tokens": 4, "select": "thumbnail", "select_tiles": 2}
    with TestClient(create_app([ServedModel("tiny", pipe)])) as client:
        said = client.post("/v1/chat/completions", json=body).json()
        for wrong in ({"select": "best"}, {"select_tiles": 0}):
            refused = client.post("/v1/chat/completions", json={**body, **wrong})
            assert refused.status_code == 400 and next(iter(wrong)) in refused.text
    answer = pipe.chat("Where?", PAGE, select="thumbnail", select_tiles=2, max_new_tokens=4)
    assert said["choices"][0]["message"]["content"] == answer.text
    (counted,) = said["usage"]["prompt_tokens_details"]["images"]
    assert (counted["tiles"], counted["missing_tiles"]) == (3, 4)
    assert answer.numbers.prompt_tokens == said["usage"]["prompt_tokens"]


def test_rows_of_a_file_are_selected_for(pipe: Pipeline, tmp_path: Any) -> None:
    from hdvl.data.questions import PreparedQuestions, open_questions
    from hdvl.inference.batch import answer_questions

    PAGE.save(tmp_path / "page.png")
    questions = open_questions(str(tmp_path), prompt="Where?", system=None, image_folder=None)
    prepared = PreparedQuestions(questions, pipe.processor)
    budget = Budget(select="thumbnail", select_tiles=2)
    ((_, answer),) = answer_questions(
        pipe, [prepared[0]], in_flight=1, budget=budget, max_new_tokens=4
    )
    assert answer is not None and answer.numbers.unselected_tiles == 4
    chat = pipe.chat("Where?", PAGE, select="thumbnail", select_tiles=2, max_new_tokens=4)
    assert answer.text == chat.text and answer.plans == chat.plans
